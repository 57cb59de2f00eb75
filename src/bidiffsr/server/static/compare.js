// Before and after in one place: a border that moves, and a lens.

const ZOOM = 3;
// Of the stage, for an arrow key.
const STEP = 0.03;

/** The two pictures of a job, one over the other. */
export class Compare {
  /** @param {HTMLElement} view of the template's class "view" */
  constructor(view) {
    this.view = view;
    this.stage = view.querySelector(".stage");
    this.lens = view.querySelector(".lens");
    this.slider = view.querySelector(".slider input");
    this.switch = view.querySelector(".lens-switch");
    this.slider.addEventListener("input", () => this.#moveBorder());
    this.switch.addEventListener("click", () => this.#showLens(this.lens.hidden));
    this.stage.addEventListener("pointermove", (event) => this.#pointAt(event));
    this.stage.addEventListener("pointerdown", (event) => this.#pointAt(event));
    this.stage.addEventListener("keydown", (event) => this.#key(event));
    this.#moveBorder();
    this.#moveLens(0.5, 0.5);
  }

  /** Say what is shown, and make room for it. */
  describe(name, width, height) {
    this.stage.setAttribute("aria-label", `${name}, before and after; arrow keys move the lens`);
    this.view.style.setProperty("--aspect", `${width} / ${height}`);
    // As wide as it is, but neither tiny nor higher than the window.
    const widest = `min(max(${width}px, 20rem), 75vh * ${width / height})`;
    this.view.style.setProperty("--widest", widest);
  }

  setBefore(url, name) {
    this.#set("before", url, `${name}, before`);
  }

  setAfter(url, name) {
    this.#set("after", url, `${name}, after`);
  }

  #set(which, url, text) {
    this.view.hidden = false;
    for (const image of this.stage.querySelectorAll(`img.${which}`)) {
      image.src = url;
      image.alt = image.parentElement === this.lens ? "" : text;
    }
  }

  #moveBorder() {
    this.stage.style.setProperty("--border", `${this.slider.value}%`);
  }

  #showLens(shown) {
    this.lens.hidden = !shown;
    this.switch.setAttribute("aria-pressed", String(shown));
    this.#moveLens(this.x, this.y);
  }

  #pointAt(event) {
    if (this.lens.hidden) return;
    const place = this.stage.getBoundingClientRect();
    this.#moveLens(
      (event.clientX - place.left) / place.width,
      (event.clientY - place.top) / place.height,
    );
  }

  #key(event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const way = ways[event.key];
    if (!way) return;
    event.preventDefault();
    if (this.lens.hidden) this.#showLens(true);
    else this.#moveLens(this.x + way[0] * STEP, this.y + way[1] * STEP);
  }

  #moveLens(x, y) {
    this.x = Math.min(1, Math.max(0, x));
    this.y = Math.min(1, Math.max(0, y));
    const style = this.lens.style;
    style.setProperty("--x", this.x);
    style.setProperty("--y", this.y);
    style.setProperty("--zoom", ZOOM);
    style.setProperty("--stage-width", `${this.stage.clientWidth}px`);
    style.setProperty("--stage-height", `${this.stage.clientHeight}px`);
  }
}
