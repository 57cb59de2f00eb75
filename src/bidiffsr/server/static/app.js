// The page as a whole: access, settings, pictures that come in, and all results in one.

import * as api from "/static/api.js";
import { JobCard } from "/static/job.js";

const element = (id) => document.getElementById(id);
const [settings, files, list, all] = ["settings", "files", "jobs", "download-all"].map(element);

const cards = [];
let model = null;
// Pictures are sent, and their events followed, one after the other, as the server takes them: a
// browser has few connections to one server.
let sending = Promise.resolve();
let watching = Promise.resolve();

const page = {
  say(text) {
    element("status").textContent = text;
  },
  changed() {
    all.hidden = cards.filter((card) => card.done).length < 2;
  },
};

function complain(text) {
  element("trouble").textContent = text;
  element("trouble").hidden = !text;
}

async function start() {
  complain("");
  try {
    model = await api.getJson("/api/model");
  } catch (error) {
    element("access").hidden = error.status !== 401;
    if (error.status !== 401) complain(error.message);
    else if (element("token").value) complain("That is not the token.");
    return;
  }
  element("access").hidden = true;
  element("work").hidden = false;
  const { scale, quality, samples, format } = settings.elements;
  scale.max = scale.value = model.scale;
  samples.max = model.max_samples;
  quality.add(new Option("the model's own", ""));
  for (const name of model.qualities) quality.add(new Option(name, name));
  for (const name of model.formats) format.add(new Option(name, name));
  const megabytes = Math.floor(model.max_bytes / 1e6);
  const megapixels = model.max_pixels / 1e6;
  element("limits").textContent =
    `up to ${megabytes} MB and ${megapixels} million pixels each`;
}

function add(chosen) {
  complain("");
  if (model === null || chosen.length === 0) return;
  if (!settings.reportValidity()) return;
  const wanted = Object.fromEntries([...new FormData(settings)].filter(([, value]) => value !== ""));
  for (const file of chosen) {
    if (file.size > model.max_bytes) {
      complain(`${file.name} has more bytes than this server takes.`);
      continue;
    }
    const card = new JobCard(file, wanted, page);
    cards.push(card);
    list.append(card.element);
    const sent = (sending = sending.then(() => card.send()));
    watching = watching.then(() => sent).then(() => card.watch());
  }
}

async function downloadAll() {
  const done = cards.filter((card) => card.done);
  const parameters = new URLSearchParams(done.map((card) => ["job", card.job.id]));
  try {
    const url = URL.createObjectURL(await api.getBlob(`/api/archive?${parameters}`));
    const link = Object.assign(document.createElement("a"), { href: url, download: "pictures.zip" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  } catch (error) {
    complain(error.message);
  }
}

files.addEventListener("change", () => {
  add([...files.files]);
  files.value = "";
});
settings.addEventListener("submit", (event) => event.preventDefault());
all.addEventListener("click", downloadAll);

for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    if (name === "drop" || event.relatedTarget === null) document.body.classList.remove("dropping");
  });
}
document.addEventListener("drop", (event) => add([...event.dataTransfer.files]));
document.addEventListener("paste", (event) => add([...event.clipboardData.files]));
window.addEventListener("beforeunload", (event) => {
  if (cards.some((card) => card.job?.state === "running" && !card.removed)) event.preventDefault();
});

element("access").addEventListener("submit", (event) => {
  event.preventDefault();
  api.setToken(element("token").value);
  start();
});
// A token behind # is never sent as a part of the address.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  api.setToken(given);
  history.replaceState(null, "", location.pathname);
}
start();
