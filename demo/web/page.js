// The page: an image, clicks and boxes on it, and the candidate masks. Every change goes through `update`, which segments
// with all prompts there are and shows what came out.

import { loadRuntime, Segmenter, UserError } from "./segmenter.js";

// Both lie beside this file; nothing is fetched from anywhere else. Either can be given in the address:
// ?model=nano-onnx&runtime=another/ort.wasm.bundle.min.mjs
const MODEL = "model";
const RUNTIME = "vendor/ort.wasm.bundle.min.mjs"; // made by the commands of segmenter.js, which also names the version

const MAX_PIXELS = 16.7e6; // of a canvas, on phones
const DRAG = 6; // pixels of the screen, in both directions, from which on a click is a box
const [BLUE, WHITE, BLACK] = [0xffff6c0a, 0xffffffff, 0xff000000]; // alpha, blue, green, red

const element = (id) => document.getElementById(id);
const [stage, frame, picture, overlay] = ["stage", "frame", "picture", "mask"].map(element);

let segmenter; // once it is loaded
let image; // encoded, see Segmenter.encode
let imageName;
let prompts = []; // as they were made: { point: [x, y, label] } or { box: [left, top, right, bottom] }
let candidates = [];
let chosen; // index of a candidate

// ------------------------------------------------------------------------------------------------------------ work

let [queue, waiting] = [Promise.resolve(), 0];

/** Run a task when those before it are done, as a graph runs once at a time. What goes wrong is shown. */
function enqueue(task) {
  stage.ariaBusy = ++waiting > 0;
  queue = queue
    .then(task)
    .catch((error) => {
      if (!(error instanceof UserError)) console.error(error);
      return say(error instanceof UserError ? error.message : `This did not work: ${error.message}`, true);
    })
    .finally(() => (stage.ariaBusy = --waiting > 0));
}

/** Say something, and let the browser show it before the processor is taken. */
function say(text, isError = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", isError);
  return new Promise((shown) => setTimeout(shown, 20));
}

async function start() {
  const given = new URLSearchParams(location.search);
  const absolute = (url) => new URL(url, location.href).href;
  await say("Loading onnxruntime-web …");
  const runtime = await loadRuntime(absolute(given.get("runtime") ?? RUNTIME));
  segmenter = await Segmenter.load(runtime, absolute(`${given.get("model") ?? MODEL}/`), say);
  const { source, dtype, rules, weights_sha256 } = segmenter.manifest;
  const size = rules.image_size.toReversed().join("×");
  element("model").textContent = `${source}, ${dtype}, ${size}, weights ${weights_sha256.slice(0, 12)}`;
  await say("Choose an image.");
}

async function openImage(file) {
  if (!segmenter) return; // why not is on the page
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new UserError(`${file.name} is not an image that this browser can read.`);
  });
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) {
    throw new UserError(`${file.name} has ${width}×${height} pixels; at most ${MAX_PIXELS / 1e6} million are taken.`);
  }
  await say("Reading the image …");
  for (const canvas of [picture, overlay]) Object.assign(canvas, { width, height });
  const context = picture.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // behind what is transparent
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  [frame.hidden, element("empty").hidden] = [false, true];
  [image, imageName, prompts] = [undefined, file.name.replace(/\.[^.]*$/, ""), []];
  image = await segmenter.encode(context.getImageData(0, 0, width, height));
  await update();
}

function change(edit) {
  enqueue(async () => {
    if (!image) return;
    edit();
    await update();
  });
}

/** Segment with the prompts there are, and show the candidates, the one with the best predicted IoU first chosen. */
async function update() {
  showMarks();
  const started = performance.now();
  candidates = prompts.length ? await segmenter.segment(image, asPoints()) : [];
  chosen = candidates.reduce((best, { iou }, i) => (iou > candidates[best].iou ? i : best), 0);
  showCandidates();
  await say(
    prompts.length
      ? `Predicted IoU ${candidates[chosen].iou.toFixed(2)}, in ${Math.round(performance.now() - started)} ms.`
      : "Click on an object, or drag a box around it.",
  );
}

const lastBox = () => prompts.findLast(({ box }) => box)?.box; // the model takes one

/** The prompts as the model wants them: the corners of the box, then all clicks. */
function asPoints() {
  const [left, top, right, bottom] = lastBox() ?? [];
  const corners = lastBox() ? [[left, top, 2], [right, bottom, 3]] : [];
  return [...corners, ...prompts.flatMap(({ point }) => (point ? [point] : []))];
}

// --------------------------------------------------------------------------------------------------------- display

function showMarks(box = lastBox()) {
  element("marks").replaceChildren();
  if (box) mark("box", box[0], box[1], box[2] - box[0], box[3] - box[1]);
  for (const { point } of prompts) if (point) mark(point[2] ? "point" : "point negative", ...point);
}

function mark(className, x, y, width, height) {
  const shown = Object.assign(document.createElement("i"), { className });
  const percent = (part, whole) => `${(100 * part) / whole}%`;
  Object.assign(shown.style, { left: percent(x, picture.width), top: percent(y, picture.height) });
  if (className === "box") {
    Object.assign(shown.style, { width: percent(width, picture.width), height: percent(height, picture.height) });
  }
  element("marks").append(shown);
}

function showCandidates() {
  const shown = candidates.map((candidate, i) => {
    const button = document.createElement("button");
    button.ariaPressed = i === chosen;
    button.append(thumbnail(candidate), `IoU ${candidate.iou.toFixed(2)}`);
    button.onclick = () => {
      chosen = i;
      showCandidates();
    };
    return button;
  });
  element("candidates").replaceChildren(...shown);
  for (const id of ["undo", "clear", "save"]) element(id).disabled = !candidates.length;
  overlay.getContext("2d").clearRect(0, 0, overlay.width, overlay.height);
  if (candidates.length) paint(candidates[chosen], overlay, BLUE);
}

function thumbnail(candidate) {
  const scale = 240 / Math.max(picture.width, picture.height);
  const [width, height] = [picture.width, picture.height].map((side) => Math.ceil(scale * side));
  const [canvas, mask] = [0, 1].map(() => Object.assign(document.createElement("canvas"), { width, height }));
  paint(candidate, mask, BLUE);
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, width, height);
  context.globalAlpha = 0.65;
  context.drawImage(mask, 0, 0);
  return canvas;
}

/** A candidate's mask on a canvas, at its size: the object in one colour, the rest in another or transparent. */
function paint(candidate, canvas, colour, background = 0) {
  const pixels = new ImageData(canvas.width, canvas.height);
  const words = new Uint32Array(pixels.data.buffer);
  segmenter.mask(candidate, [canvas.height, canvas.width]).forEach((inside, i) => {
    words[i] = inside ? colour : background;
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function saveMask() {
  const { width, height } = picture;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  paint(candidates[chosen], canvas, WHITE, BLACK);
  canvas.toBlob((blob) => {
    const href = URL.createObjectURL(blob);
    Object.assign(document.createElement("a"), { href, download: `${imageName}_mask.png` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 1000);
  });
}

// ----------------------------------------------------------------------------------------------------------- input

/** Where on the picture a pointer is, in its pixels, and no farther than its edge. */
function position({ clientX, clientY }) {
  const { left, top, width, height } = picture.getBoundingClientRect();
  const inside = (part) => Math.min(Math.max(part, 0), 1);
  return [inside((clientX - left) / width) * picture.width, inside((clientY - top) / height) * picture.height];
}

/** The box between two pointer events; none if they are so close that a click is meant. */
function boxBetween(begin, end) {
  const [dx, dy] = [begin.clientX - end.clientX, begin.clientY - end.clientY].map(Math.abs);
  if (Math.min(dx, dy) < DRAG) return undefined;
  const [[x0, y0], [x1, y1]] = [position(begin), position(end)];
  return [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
}

let pressed; // the event with which a click or a box began

frame.onpointerdown = (event) => {
  pressed = event;
  frame.setPointerCapture(event.pointerId);
};
frame.onpointermove = (event) => pressed && showMarks(boxBetween(pressed, event));
frame.onpointercancel = () => {
  pressed = undefined;
  showMarks();
};
frame.onpointerup = (event) => {
  if (!pressed) return;
  const isNegative = event.button === 2 || event.shiftKey || element("background").checked;
  const box = boxBetween(pressed, event);
  pressed = undefined;
  change(() => prompts.push(box ? { box } : { point: [...position(event), isNegative ? 0 : 1] }));
};
frame.oncontextmenu = (event) => event.preventDefault();

element("undo").onclick = () => change(() => prompts.pop());
element("clear").onclick = () => change(() => (prompts = []));
element("save").onclick = saveMask;
document.onkeydown = ({ key, ctrlKey, metaKey }) => {
  if (key === "u" || (key === "z" && (ctrlKey || metaKey))) element("undo").click();
  if (key === "Escape") element("clear").click();
};

const choose = ([file]) => file && enqueue(() => openImage(file));
element("file").onchange = ({ target }) => {
  choose(target.files);
  target.value = ""; // so that the same file may be chosen again
};
for (const kind of ["dragover", "dragleave", "drop"]) {
  stage.addEventListener(kind, (event) => {
    event.preventDefault();
    stage.classList.toggle("dropping", kind === "dragover");
    if (kind === "drop") choose(event.dataTransfer.files);
  });
}

enqueue(start);
