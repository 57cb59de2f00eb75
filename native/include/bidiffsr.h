/* bidiffsr in C: load a model file and upscale pictures, without Python (docs/c.md).
 *
 * Every function may be called from any thread, and many may share a model: their calls neither
 * wait for each other nor mix. No exception leaves the library, and nothing is printed. What fails
 * says so by its status, and in words by bidiffsr_message().
 */
#ifndef BIDIFFSR_H
#define BIDIFFSR_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define BIDIFFSR_API __attribute__((visibility("default")))
#else
#define BIDIFFSR_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum bidiffsr_status {
  BIDIFFSR_OK = 0,
  BIDIFFSR_BAD_ARGUMENT = 1, /* what was passed is out of range or does not fit together */
  BIDIFFSR_BAD_MODEL = 2,    /* the model file cannot be read, or is not as docs/format.md says */
  BIDIFFSR_NO_MEMORY = 3,    /* the memory, or max_memory, does not suffice */
  BIDIFFSR_CANCELLED = 4,    /* by the caller's own function */
  BIDIFFSR_UNSOUND = 5,      /* the network's result is not a picture: the model is no good */
  BIDIFFSR_FAILED = 6        /* anything else */
} bidiffsr_status;

/* What this thread's last failed call has to say: one line, "" where none has failed. It holds
 * until the thread's next call fails. */
BIDIFFSR_API const char* bidiffsr_message(void);

/* The library's version, such as "0.1.0". */
BIDIFFSR_API const char* bidiffsr_version(void);

/* A network ready to run. */
typedef struct bidiffsr_model bidiffsr_model;

/* How a model is loaded; all zero is the default. */
typedef struct bidiffsr_model_options {
  int threads;        /* that share a call, at most 1024; 0: one for each CPU */
  int exact;          /* 0: rounded more where it cannot be seen; 1: float32 throughout */
  const char* kernel; /* instruction set; NULL: what BIDIFFSR_KERNEL names, or the fastest */
} bidiffsr_model_options;

/* Loads a packed model file. `options` may be NULL. On failure *model is NULL. The model does not
 * need the file, or `bytes`, afterwards. */
BIDIFFSR_API bidiffsr_status bidiffsr_load(const char* path, const bidiffsr_model_options* options,
                                           bidiffsr_model** model);
BIDIFFSR_API bidiffsr_status bidiffsr_load_memory(const void* bytes, size_t size,
                                                  const bidiffsr_model_options* options,
                                                  bidiffsr_model** model);
/* Once no call is under way; NULL is let pass. */
BIDIFFSR_API void bidiffsr_free(bidiffsr_model* model);

/* What is known of a model; 0 or "" for NULL. */
BIDIFFSR_API int bidiffsr_scale(const bidiffsr_model* model);         /* it was trained for */
BIDIFFSR_API int bidiffsr_timesteps(const bidiffsr_model* model);     /* of its diffusion */
BIDIFFSR_API int bidiffsr_size_multiple(const bidiffsr_model* model); /* of the network's sides */
BIDIFFSR_API int bidiffsr_threads(const bidiffsr_model* model);
BIDIFFSR_API const char* bidiffsr_kernel(const bidiffsr_model* model); /* lives with the model */

/* Is called on the caller's own thread, every 20 ms or so and after every run of the network, with
 * how much is done, 0 to 1. Anything but 0 cancels the call. It must not throw, nor jump out. */
typedef int (*bidiffsr_progress)(void* user, double done);

/* A picture: grey, RGB or RGB with alpha, pixel by pixel in rows without gaps. Samples of 16 bits
 * are in the machine's byte order; they stay in the colour space they are in, gamma included. */
typedef struct bidiffsr_picture {
  int height;
  int width;
  int channels; /* 1, 3 or 4 */
  int bits;     /* of a sample: 8 or 16 */
} bidiffsr_picture;

/* How a picture is upscaled; all zero is the default. */
typedef struct bidiffsr_upscale_options {
  const char* quality;        /* "fast", "balanced" or "best"; NULL: what the model asks for */
  int steps;                  /* in place of the quality's; 0: the quality's */
  uint64_t seed;              /* the same seed gives the same result */
  uint32_t sample;            /* which of the results of one seed */
  double scale;               /* at most the model's; 0: the model's */
  int tile;                   /* largest side of what is worked on at once; 0: chosen */
  uint64_t max_memory;        /* bytes that a call may take; 0: no limit */
  bidiffsr_progress progress; /* may be NULL */
  void* user;                 /* what it is called with */
} bidiffsr_upscale_options;

/* What `bidiffsr_upscale` makes of `source`: *result has its channels and bits. */
BIDIFFSR_API bidiffsr_status bidiffsr_result(const bidiffsr_model* model,
                                             const bidiffsr_picture* source, double scale,
                                             bidiffsr_picture* result);

/* Upscales a picture, as `bidiffsr upscale` does. `options` may be NULL. `size` and `result_size`
 * are the bytes at `samples` and `result`, at least height * width * channels * bits / 8 of the
 * source and of what `bidiffsr_result` says. They must not overlap; samples of 16 bits begin at
 * even addresses. Unless BIDIFFSR_OK is returned, what stands in `result` is undefined. */
BIDIFFSR_API bidiffsr_status bidiffsr_upscale(bidiffsr_model* model, const bidiffsr_picture* source,
                                              const void* samples, size_t size,
                                              const bidiffsr_upscale_options* options, void* result,
                                              size_t result_size);

/* Runs the network once on `count` samples. x_t (noisy variable), cond (upscaled low-resolution
 * picture in [0, 1]) and prediction are (count, 3, height, width) float32 of `floats` numbers each;
 * height and width multiples of bidiffsr_size_multiple(). `timesteps` holds `count`. `progress`,
 * which may be NULL, is told 0 throughout. */
BIDIFFSR_API bidiffsr_status bidiffsr_predict(bidiffsr_model* model, const float* x_t,
                                              const float* cond, const int64_t* timesteps,
                                              size_t count, int height, int width,
                                              float* prediction, size_t floats,
                                              bidiffsr_progress progress, void* user);

/* Bytes of scratch memory that a run of the network takes. */
BIDIFFSR_API bidiffsr_status bidiffsr_scratch_bytes(bidiffsr_model* model, int height, int width,
                                                    size_t* bytes);

/* Scratch memory is kept for the next calls; this gives back what no call under way holds. */
BIDIFFSR_API void bidiffsr_release_memory(bidiffsr_model* model);

#ifdef __cplusplus
}
#endif

#endif
