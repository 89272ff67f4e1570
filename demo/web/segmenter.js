// EfficientTAM in a browser: the manifest of an exported folder and the two graphs that images need, run by
// onnxruntime-web. Pixels and prompts in, mask logits out. The page around it is in page.js.

const FORMAT = "efficienttam-onnx";
const FORMAT_VERSION = 1;

/** What can go wrong without a fault in this code; the message is for whoever uses the page. */
export class UserError extends Error {}

const PACKAGE = "onnxruntime-web@1.30.0"; // tested with this one

/** Import onnxruntime-web from a URL. It is code, so it comes from the server of the page and from no other. */
export async function loadRuntime(url) {
  if (typeof WebAssembly !== "object") {
    throw new UserError("This browser has no WebAssembly, or it is switched off; the model needs it.");
  }
  if (new URL(url).origin !== globalThis.location.origin) {
    throw new UserError(`${url} is on another server; onnxruntime-web is loaded from the page's own server only.`);
  }
  return import(url).catch(() => {
    const archive = PACKAGE.replace("@", "-");
    throw new UserError(
      `onnxruntime-web could not be loaded from ${url}. In the folder of this page, run "npm pack ${PACKAGE}", ` +
        `"mkdir -p vendor" and "tar xzf ${archive}.tgz -C vendor --strip-components=2 package/dist", then load the ` +
        "page again. A copy elsewhere on this server is named by ?runtime=PATH",
    );
  });
}

/** Segments prompted objects in images, as `OnnxImageSegmenter` of the Python package. */
export class Segmenter {
  /** Load an exported folder by its URL, which ends with a slash. `report` hears what is being loaded. */
  static async load(runtime, folder, report = () => {}) {
    const manifest = await readManifest(folder);
    const sessions = {};
    for (const name of ["image_encoder", "mask_decoder"]) {
      const { file, bytes } = manifest.graphs[name];
      report(`Loading ${file}, ${(bytes / 1e6).toFixed(1)} MB …`);
      sessions[name] = await runtime.InferenceSession.create(await fetchGraph(folder, manifest, name));
    }
    return new Segmenter(runtime, manifest, sessions);
  }

  constructor(runtime, manifest, sessions) {
    Object.assign(this, { runtime, manifest, sessions, rules: manifest.rules });
  }

  /** Encode an image (an ImageData, whose alpha is ignored) once, to prompt it many times. */
  async encode({ data, width, height }) {
    const { image_size: size, image_mean: mean, image_std: std } = this.rules;
    const pixels = new Float32Array(3 * size[0] * size[1]);
    for (const channel of [0, 1, 2]) {
      const plane = data.filter((_, i) => i % 4 === channel);
      const resized = resize(plane, [height, width], size, true);
      pixels.set(resized.map((v) => (v / 255 - mean[channel]) / std[channel]), channel * resized.length);
    }
    const pixel_values = this.#tensor("float32", pixels, [1, 3, ...size]);
    const { image_embeddings } = await this.sessions.image_encoder.run({ pixel_values });
    return { embeddings: image_embeddings, width, height };
  }

  /**
   * The candidate masks of one object in an encoded image.
   *
   * `points` are [x, y, label] in pixels of the image: label 1 on the object, 0 beside it; 2 and 3 are the top-left and
   * bottom-right corner of a box, ahead of the others. A candidate has `logits` at `mask_size`, and the IoU that the
   * model predicts of it.
   */
  async segment({ embeddings, width, height }, points) {
    const { image_size, mask_size } = this.rules;
    const scaled = points.flatMap(([x, y]) => [(x / width) * image_size[1], (y / height) * image_size[0]]);
    const labels = points.map(([, , label]) => BigInt(label));
    const area = mask_size[0] * mask_size[1];
    const { proposals, proposal_iou_scores } = await this.sessions.mask_decoder.run({
      features: embeddings,
      input_points: this.#tensor("float32", Float32Array.from(scaled), [1, points.length, 2]),
      input_labels: this.#tensor("int64", BigInt64Array.from(labels), [1, points.length]),
      previous_masks: this.#tensor("float32", new Float32Array(area), [1, 1, ...mask_size]),
      has_previous_mask: this.#tensor("bool", [false], [1]),
      multimask_output: this.#tensor("bool", [true], [1]),
    });
    return Array.from(proposal_iou_scores.data, (iou, i) => ({
      iou,
      logits: proposals.data.slice(i * area, (i + 1) * area),
    }));
  }

  /** A candidate's mask at [height, width]: 1 on the object, 0 elsewhere, row by row. */
  mask({ logits }, size) {
    const { mask_size, mask_threshold } = this.rules;
    return resize(logits, mask_size, size).map((logit) => logit > mask_threshold);
  }

  #tensor(type, data, axes) {
    return new this.runtime.Tensor(type, data, axes);
  }
}

/**
 * A map, row by row, from one [height, width] to another by linear interpolation. With `antialias`, a new pixel is an
 * average of all it covers, as images were prepared when the model was trained; how a canvas scales is up to the browser.
 */
function resize(map, [height, width], [newHeight, newWidth], antialias = false) {
  const columns = resizeRows(map, height, width, newWidth, antialias);
  return resizeRows(columns, newWidth, height, newHeight, antialias);
}

/** Rows of `size` pixels to rows of `newSize`, and the result transposed: a new pixel's row is its old column. */
function resizeRows(map, count, size, newSize, antialias) {
  const resized = new Float32Array(newSize * count);
  const scale = size / newSize;
  const reach = antialias ? Math.max(scale, 1) : 1;
  for (let i = 0; i < newSize; i++) {
    // A triangle around the new pixel's centre, cut at the edges.
    const centre = Math.min(Math.max((i + 0.5) * scale, 0.5), size - 0.5);
    const first = Math.max(Math.floor(centre - reach), 0);
    const length = Math.min(Math.ceil(centre + reach), size) - first;
    const weights = Array.from({ length }, (_, j) => Math.max(0, 1 - Math.abs(first + j + 0.5 - centre) / reach));
    const total = weights.reduce((a, b) => a + b);
    for (let row = 0; row < count; row++) {
      let sum = 0;
      for (let j = 0; j < length; j++) sum += weights[j] * map[row * size + first + j];
      resized[i * count + row] = sum / total;
    }
  }
  return resized;
}

async function readManifest(folder) {
  const response = await fetchFile(folder, "manifest.json");
  const manifest = await response.json().catch(() => null);
  if (manifest?.format !== FORMAT || manifest.format_version !== FORMAT_VERSION) {
    throw new UserError(
      `${response.url} is not a manifest of format ${FORMAT}, version ${FORMAT_VERSION}: export the model again.`,
    );
  }
  return manifest;
}

async function fetchGraph(folder, manifest, name) {
  const { file, sha256 } = manifest.graphs[name];
  const graph = await (await fetchFile(folder, file)).arrayBuffer();
  const digest = await globalThis.crypto?.subtle?.digest("SHA-256", graph); // there on https and on localhost
  const found = Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (digest && found !== sha256) {
    throw new UserError(
      `${file} is not the graph that was exported with this manifest, of ${manifest.source}: it is damaged, or of ` +
        "another model. Export the model again.",
    );
  }
  return graph;
}

async function fetchFile(folder, file) {
  const response = await fetch(new URL(file, folder)).catch(() => null);
  if (response?.ok) return response;
  const answer = response ? `the server answers ${response.status}` : "the server does not answer";
  throw new UserError(
    `There is no ${file} in ${folder} (${answer}). Make it with "efficienttam export", or name another: ?model=URL`,
  );
}
