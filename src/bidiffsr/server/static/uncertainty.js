// Where the results of one picture differ: there its detail is invented.

// Longest side of the map; larger results are made smaller for it.
const SIDE = 1024;
// Of the full range: a standard deviation that is shown as certainly invented.
const STRONGEST = 0.1;

/**
 * Draw the standard deviation of several results, each pixel's, over the colours' mean.
 * @param {HTMLCanvasElement} canvas
 * @param {Blob[]} results of one size
 * @returns {Promise<{mean: number, most: number}>} in shares of the full range
 */
export async function drawUncertainty(canvas, results) {
  const first = await createImageBitmap(results[0]);
  const shrink = Math.min(1, SIDE / Math.max(first.width, first.height));
  canvas.width = Math.max(1, Math.round(first.width * shrink));
  canvas.height = Math.max(1, Math.round(first.height * shrink));
  first.close();
  const count = canvas.width * canvas.height;
  // Welford's sums, for each sample of a pixel.
  const means = new Float32Array(3 * count);
  const squares = new Float32Array(3 * count);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (const [index, result] of results.entries()) {
    const bitmap = await createImageBitmap(result);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    for (let pixel = 0; pixel < count; pixel++) {
      for (let channel = 0; channel < 3; channel++) {
        const at = 3 * pixel + channel;
        const value = data[4 * pixel + channel] / 255;
        const delta = value - means[at];
        means[at] += delta / (index + 1);
        squares[at] += delta * (value - means[at]);
      }
    }
  }
  const map = context.createImageData(canvas.width, canvas.height);
  let sum = 0;
  let most = 0;
  for (let pixel = 0; pixel < count; pixel++) {
    const at = 3 * pixel;
    const variance = (squares[at] + squares[at + 1] + squares[at + 2]) / 3 / (results.length - 1);
    const deviation = Math.sqrt(Math.max(0, variance)); // it was rounded
    sum += deviation;
    most = Math.max(most, deviation);
    const strength = Math.min(1, deviation / STRONGEST);
    // From clear through yellow to magenta, which no photograph is full of.
    map.data.set([255, 220 * (1 - strength), 255 * strength ** 2, 230 * strength], 4 * pixel);
  }
  context.putImageData(map, 0, 0);
  return { mean: sum / count, most };
}
