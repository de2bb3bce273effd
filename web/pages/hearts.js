/** Hearts that rise from the button, on one small canvas that sleeps when none is in the air. */

const HUES = [6, 14, 350, 28, 340];
const LIFE_MS = 2200;
const MOST = 40;

export class Hearts {
  #canvas;
  #hearts = [];
  #running = false;
  #still = matchMedia('(prefers-reduced-motion: reduce)');
  #shape = new Path2D('M0 9S-10 3-10-4C-10-8-7-10-4.5-10-2.5-10-.8-9 0-7 .8-9 2.5-10 4.5-10 7-10 10-8 10-4 10 3 0 9 0 9Z');

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#canvas = canvas;
  }

  /** @param {number} n */
  rise(n) {
    if (this.#still.matches || document.hidden) return;
    for (let i = 0; i < n && this.#hearts.length < MOST; i += 1) {
      this.#hearts.push({
        born: performance.now() + i * 130, hue: HUES[Math.floor(Math.random() * HUES.length)],
        swing: (Math.random() - .5) * 70, size: .7 + Math.random() * .6, tilt: (Math.random() - .5) * .7,
      });
    }
    if (!this.#running) {
      this.#running = true;
      requestAnimationFrame((now) => this.#draw(now));
    }
  }

  #draw(now) {
    const canvas = this.#canvas;
    const scale = devicePixelRatio || 1;
    const {clientWidth: width, clientHeight: height} = canvas;
    if (canvas.width !== width * scale) [canvas.width, canvas.height] = [width * scale, height * scale];
    const pen = canvas.getContext('2d');
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    this.#hearts = this.#hearts.filter((heart) => now - heart.born < LIFE_MS);
    for (const heart of this.#hearts) {
      const age = Math.max(0, (now - heart.born) / LIFE_MS);
      if (!age) continue;
      const size = heart.size * Math.min(1, age * 7);
      pen.save();
      pen.translate(width - 34 + heart.swing * Math.sin(age * 2.6) * .6 - Math.abs(heart.swing) * .3, height - 16 - age * (height - 50));
      pen.rotate(heart.tilt * age * 1.5);
      pen.scale(size, size);
      pen.globalAlpha = age > .55 ? Math.max(0, (1 - age) / .45) : 1;
      pen.fillStyle = `hsl(${heart.hue} 88% 60%)`;
      pen.fill(this.#shape);
      pen.restore();
    }
    this.#running = this.#hearts.length > 0;
    if (this.#running) requestAnimationFrame((next) => this.#draw(next));
    else pen.clearRect(0, 0, width, height);
  }
}
