// Talking to the server; everything that can go wrong is an Error whose message may be shown.

let token = "";

/** Use a token from now on. */
export function setToken(value) {
  token = value;
}

/** A request that came back with an error. */
export class Refused extends Error {
  constructor(status, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function request(url, options = {}) {
  const headers = new Headers(options.headers);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  let answer;
  try {
    answer = await fetch(url, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer; is it still running?");
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  const wait = Number(answer.headers.get("Retry-After")) || 0;
  throw new Refused(answer.status, problem.detail ?? `the server answers ${answer.status}`, wait);
}

export const getJson = async (url) => (await request(url)).json();
export const getBlob = async (url) => (await request(url)).blob();
export const remove = (url) => request(url, { method: "DELETE" });

/** Send a picture; returns its job. */
export async function submit(file, settings) {
  const parameters = new URLSearchParams({ ...settings, name: file.name || "pasted.png" });
  const answer = await request(`/api/jobs?${parameters}`, {
    method: "POST",
    body: file,
    headers: { "Content-Type": "application/octet-stream" },
  });
  return answer.json();
}

/**
 * Follow a job to its end, through lost connections.
 * @param {string} url of its events
 * @param {(name: string, data: object) => void} told of each
 * @param {AbortSignal} signal
 */
export async function follow(url, told, signal) {
  let last = null;
  for (let attempt = 0; ; attempt++) {
    try {
      const headers = last === null ? {} : { "Last-Event-ID": last };
      const answer = await request(url, { headers, signal });
      for await (const event of events(answer.body)) {
        last = event.id ?? last;
        attempt = 0;
        told(event.event, JSON.parse(event.data));
      }
      return;
    } catch (error) {
      if (signal.aborted || error instanceof Refused || attempt >= 8) throw error;
      await sleep(Math.min(500 * 2 ** attempt, 10_000));
    }
  }
}

export const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** The events of a stream, as the HTML standard has them. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const event = {};
      for (const line of block.split("\n")) {
        const [, name, content] = line.match(/^([a-z]+): ?(.*)$/) ?? [];
        if (name) event[name] = content;
      }
      if (event.data !== undefined) yield event;
    }
  }
}
