// Points of the depth cameras, drawn without WebGL: some ten thousand take a few milliseconds.

const DOT_PX = 2;

export class PointCloud {
  #positions = new Float32Array(0); // x, y, z in m
  #colours = new Uint32Array(0); // as ImageData has them
  count = 0;

  // event: of the server; readPicture(camera) returns {data, width, height, ratio} or null.
  load({ points, count, origin_m, step_m, cameras }, readPicture) {
    const bytes = Uint8Array.from(atob(points), (character) => character.charCodeAt(0));
    const steps = new Int16Array(bytes.buffer, 0, 6 * count);
    const pictures = cameras.map(readPicture);
    this.count = count;
    this.#positions = new Float32Array(3 * count);
    this.#colours = new Uint32Array(count);
    for (let i = 0; i < count; i += 1) {
      for (let axis = 0; axis < 3; axis += 1) {
        this.#positions[3 * i + axis] = origin_m[axis] + step_m * steps[6 * i + axis];
      }
      const picture = pictures[steps[6 * i + 3]];
      this.#colours[i] = 0xff909090;
      if (!picture) continue;
      const x = Math.floor((steps[6 * i + 4] + 0.5) * picture.ratio);
      const y = Math.floor((steps[6 * i + 5] + 0.5) * picture.ratio);
      this.#colours[i] = picture.data[y * picture.width + x] ?? 0xff909090;
    }
  }

  clear() { this.count = 0; }

  get positions() { return this.#positions.subarray(0, 3 * this.count); }

  // project(x, y, z, out) writes screen x, y and depth; nearer points hide farther ones.
  draw(context, width, height, project) {
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const depths = new Float32Array(width * height).fill(Infinity);
    const out = [0, 0, 0];
    for (let i = 0; i < this.count; i += 1) {
      project(this.#positions[3 * i], this.#positions[3 * i + 1], this.#positions[3 * i + 2], out);
      const [left, top] = [Math.floor(out[0]), Math.floor(out[1])];
      if (!(left >= 0 && top >= 0 && left < width - DOT_PX && top < height - DOT_PX)) continue;
      for (let dy = 0; dy < DOT_PX; dy += 1) {
        for (let dx = 0; dx < DOT_PX; dx += 1) {
          const at = (top + dy) * width + left + dx;
          if (out[2] >= depths[at]) continue;
          depths[at] = out[2];
          pixels[at] = this.#colours[i];
        }
      }
    }
    context.putImageData(image, 0, 0);
  }
}
