/* Upscales a PGM or PPM picture, 8 or 16 bits, with nothing but C and the bidiffsr library:
 *
 *     cc -std=c99 upscale.c $(pkg-config --cflags --libs bidiffsr) -o upscale
 *     ./upscale x4-small.safetensors small.ppm large.ppm fast
 */
#include <bidiffsr.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A number of the header; comments run from # to the end of a line. -1 where there is none. */
static long read_number(FILE* file) {
  int letter = getc(file);
  long value = 0;
  while (letter == ' ' || letter == '\t' || letter == '\r' || letter == '\n' || letter == '#') {
    if (letter == '#')
      while (letter != '\n' && letter != EOF) letter = getc(file);
    letter = getc(file);
  }
  if (letter < '0' || letter > '9') return -1;
  for (; letter >= '0' && letter <= '9'; letter = getc(file)) {
    value = 10 * value + (letter - '0');
    if (value > 1000000) return -1;
  }
  return value; /* with the one white space behind it */
}

static size_t bytes_of(const bidiffsr_picture* picture) {
  return (size_t)picture->height * (size_t)picture->width * (size_t)picture->channels *
         (size_t)(picture->bits / 8);
}

/* Files hold samples of 16 bits with the high byte first, memory as the machine likes. */
static void swap_bytes(const bidiffsr_picture* picture, unsigned char* samples) {
  const uint16_t one = 1;
  size_t i, size = bytes_of(picture);
  if (picture->bits == 8 || *(const unsigned char*)&one == 0) return;
  for (i = 0; i + 1 < size; i += 2) {
    const unsigned char first = samples[i];
    samples[i] = samples[i + 1];
    samples[i + 1] = first;
  }
}

/* The samples, which the caller frees; NULL, and a line on stderr, where the file is no such
 * picture. */
static unsigned char* read_picture(const char* path, bidiffsr_picture* picture) {
  FILE* file = fopen(path, "rb");
  unsigned char* samples = NULL;
  const char* wrong = NULL;
  if (!file) {
    fprintf(stderr, "%s: %s\n", path, strerror(errno));
    return NULL;
  }
  const int magic = getc(file), kind = getc(file);
  const long width = read_number(file), height = read_number(file), most = read_number(file);
  if (magic != 'P' || (kind != '5' && kind != '6'))
    wrong = "is neither a binary PGM nor a binary PPM picture";
  else if (width < 1 || height < 1 || (most != 255 && most != 65535))
    wrong = "has a header that says no size, or a greatest value other than 255 and 65535";
  if (!wrong) {
    picture->width = (int)width;
    picture->height = (int)height;
    picture->channels = kind == '5' ? 1 : 3;
    picture->bits = most == 255 ? 8 : 16;
    samples = malloc(bytes_of(picture));
    if (!samples)
      wrong = "is too large for the memory";
    else if (fread(samples, 1, bytes_of(picture), file) != bytes_of(picture))
      wrong = "is cut off";
  }
  fclose(file);
  if (wrong) {
    fprintf(stderr, "%s: %s\n", path, wrong);
    free(samples);
    return NULL;
  }
  swap_bytes(picture, samples);
  return samples;
}

/* Whole or not at all: under another name first. Not 0 where it fails. */
static int write_picture(const char* path, const bidiffsr_picture* picture,
                         unsigned char* samples) {
  char* temporary = malloc(strlen(path) + sizeof ".part");
  FILE* file;
  int failed = 1;
  if (!temporary) return 1;
  sprintf(temporary, "%s.part", path);
  swap_bytes(picture, samples);
  file = fopen(temporary, "wb");
  if (file) {
    failed = fprintf(file, "P%c\n%d %d\n%d\n", picture->channels == 1 ? '5' : '6', picture->width,
                     picture->height, picture->bits == 8 ? 255 : 65535) < 0;
    failed |= fwrite(samples, 1, bytes_of(picture), file) != bytes_of(picture);
    failed |= fclose(file) != 0;
    failed = failed || rename(temporary, path) != 0;
  }
  if (failed) {
    fprintf(stderr, "%s: cannot be written: %s\n", path, strerror(errno));
    remove(temporary);
  }
  free(temporary);
  return failed;
}

static int show(void* user, double done) {
  (void)user;
  fprintf(stderr, "\r%3d %%", (int)(100 * done));
  return 0; /* anything else would cancel */
}

/* Not 0 where it fails. */
static int upscale(bidiffsr_model* model, const char* from, const char* to, const char* quality) {
  bidiffsr_picture small, large;
  bidiffsr_upscale_options options;
  unsigned char *result = NULL, *samples = read_picture(from, &small);
  int failed = 1;
  memset(&options, 0, sizeof options);
  options.quality = quality;
  options.progress = show;
  if (!samples) return 1;
  if (bidiffsr_result(model, &small, options.scale, &large) == BIDIFFSR_OK)
    result = malloc(bytes_of(&large));
  if (result && bidiffsr_upscale(model, &small, samples, bytes_of(&small), &options, result,
                                 bytes_of(&large)) == BIDIFFSR_OK) {
    fprintf(stderr, "\n");
    failed = write_picture(to, &large, result);
  } else {
    fprintf(stderr, "%s: %s\n", from, bidiffsr_message());
  }
  free(result);
  free(samples);
  return failed;
}

int main(int count, char** arguments) {
  bidiffsr_model* model;
  int failed;
  if (count < 4 || count > 5) {
    fprintf(stderr, "usage: %s MODEL.safetensors FROM.ppm TO.ppm [fast|balanced|best]\n",
            arguments[0]);
    return 2;
  }
  if (bidiffsr_load(arguments[1], NULL, &model) != BIDIFFSR_OK) {
    fprintf(stderr, "%s\n", bidiffsr_message());
    return 1;
  }
  failed = upscale(model, arguments[2], arguments[3], count == 5 ? arguments[4] : NULL);
  bidiffsr_free(model);
  return failed;
}
