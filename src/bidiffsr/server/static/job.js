// One picture's card: from the file to its results.

import * as api from "/static/api.js";
import { Compare } from "/static/compare.js";
import { drawUncertainty } from "/static/uncertainty.js";

const template = document.querySelector("#job");

const seconds = (value) =>
  value < 90 ? `${Math.ceil(value)} s` : `${Math.ceil(value / 60)} min`;
const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** A picture on the page. */
export class JobCard {
  /**
   * @param {File} file
   * @param {object} settings for the server
   * @param {{changed: () => void, say: (text: string) => void}} page
   */
  constructor(file, settings, page) {
    this.file = file;
    this.settings = settings;
    this.page = page;
    this.name = file.name || "pasted.png";
    this.job = null;
    this.blobs = [];
    this.urls = [];
    this.abort = new AbortController();
    this.element = template.content.firstElementChild.cloneNode(true);
    this.part = (selector) => this.element.querySelector(selector);
    this.part("h2").textContent = this.name;
    this.compare = new Compare(this.part(".view"));
    this.part(".remove").setAttribute("aria-label", `Cancel ${this.name}`);
    this.part(".remove").addEventListener("click", () => this.remove());
    this.part(".chooser select").addEventListener("change", () => this.#showResult());
    this.part(".uncertainty-switch").addEventListener("click", () => this.#switchUncertainty());
    this.#state("waits to be sent");
  }

  get removed() {
    return this.abort.signal.aborted;
  }

  get done() {
    return this.job?.state === "done" && !this.removed;
  }

  /** Send the picture, as often as the server is too busy. */
  async send() {
    while (!this.removed) {
      try {
        this.#state("is sent");
        this.job = await api.submit(this.file, this.settings);
        this.#describe();
        if (this.removed) await this.#forget();
        return;
      } catch (error) {
        if (error.status !== 429) return this.#fail(error.message);
        this.#state(`waits: ${error.message}`);
        await api.sleep(1000 * (error.retryAfter || 5));
      }
    }
  }

  /** Show what becomes of it, to its end. */
  async watch() {
    if (this.removed || this.job === null) return;
    try {
      await api.follow(this.job.events, (name, data) => this.#told(name, data), this.abort.signal);
      if (this.job.state === "done") await this.#fetchResults();
      else if (!this.removed) this.#fail(this.job.error ?? "cancelled");
    } catch (error) {
      if (!this.removed) this.#fail(error.message);
    }
    this.page.changed();
  }

  /** Take it off the page and the server. */
  async remove() {
    this.abort.abort();
    this.element.remove();
    for (const url of this.urls) URL.revokeObjectURL(url);
    this.page.say(`${this.name} removed`);
    this.page.changed();
    if (this.job) await this.#forget();
  }

  async #forget() {
    await api.remove(this.job.url).catch(() => {}); // it may be gone already
  }

  #told(name, data) {
    if (name === "job") this.job = data;
    if (name === "job" && data.state === "waiting") {
      this.#state(data.before ? `waits; ${data.before} before it` : "waits");
    } else if (name === "progress") {
      const which = data.samples > 1 ? `result ${data.sample + 1} of ${data.samples}, ` : "";
      const left = data.seconds_left === null ? "" : `; about ${seconds(data.seconds_left)} left`;
      this.#state(`${which}step ${Math.min(data.step + 1, data.steps)} of ${data.steps}${left}`);
      this.part("progress").value = data.done / data.total;
    } else if (name === "preview") {
      this.interpolated ??= data.image;
      this.lastPreview = data.image;
      if (this.part(".view").hidden) this.#open();
      this.compare.setAfter(data.image, this.name);
    }
  }

  #describe() {
    const { width, height, scale } = this.job;
    const size = [width, height].map((side) => Math.ceil(side * scale - 1e-9)).join(" × ");
    this.part(".size").textContent = `${width} × ${height} → ${size}`;
    this.compare.describe(this.name, Math.ceil(width * scale - 1e-9), Math.ceil(height * scale - 1e-9));
  }

  #open() {
    const before = this.part(".stage > .before");
    // A kind of picture that this browser does not show.
    before.addEventListener("error", () => this.compare.setBefore(this.interpolated, this.name), {
      once: true,
    });
    this.compare.setBefore(this.#url(this.file), this.name);
  }

  async #fetchResults() {
    for (const result of this.job.results) this.blobs.push(await api.getBlob(result.url));
    this.links = this.blobs.map((blob) => this.#url(blob));
    const chooser = this.part(".chooser select");
    for (const index of this.blobs.keys()) chooser.add(new Option(`${index + 1}`, `${index}`));
    const several = this.blobs.length > 1;
    this.part(".chooser").hidden = !several;
    this.part(".uncertainty-switch").hidden = !several;
    this.part("progress").hidden = true;
    this.part(".download").hidden = false;
    this.part(".remove").textContent = "Remove";
    this.part(".remove").setAttribute("aria-label", `Remove ${this.name}`);
    this.#state("done");
    this.#showResult();
    this.page.say(`${this.name} is done`);
  }

  #showResult() {
    const index = Number(this.part(".chooser select").value);
    const after = this.part(".stage > .after");
    after.addEventListener("error", () => this.compare.setAfter(this.lastPreview, this.name), {
      once: true,
    });
    this.compare.setAfter(this.links[index], this.name);
    const download = this.part(".download");
    download.href = this.links[index];
    download.download = this.job.results[index].name;
    download.setAttribute("aria-label", `Download ${download.download}`);
  }

  async #switchUncertainty() {
    const button = this.part(".uncertainty-switch");
    const canvas = this.part(".uncertainty");
    const legend = this.part(".legend");
    const shown = canvas.hidden;
    button.setAttribute("aria-pressed", String(shown));
    if (shown && !legend.textContent) {
      try {
        const { mean, most } = await drawUncertainty(canvas, this.blobs);
        legend.textContent =
          `Coloured is where the ${this.blobs.length} results differ: their standard deviation, ` +
          `${percent(mean)} of the range on average, ${percent(most)} at most; ` +
          "yellow is little, magenta 10 % and more.";
      } catch {
        legend.textContent = "This browser cannot show results of this format.";
      }
    }
    canvas.hidden = legend.hidden = !shown;
  }

  #url(blob) {
    const url = URL.createObjectURL(blob);
    this.urls.push(url);
    return url;
  }

  #state(text) {
    this.part(".state").textContent = text;
  }

  #fail(text) {
    this.#state(text);
    this.part(".state").classList.add("error");
    this.part("progress").hidden = true;
    this.part(".remove").textContent = "Remove";
    this.part(".remove").setAttribute("aria-label", `Remove ${this.name}`);
    this.page.say(`${this.name}: ${text}`);
  }
}
