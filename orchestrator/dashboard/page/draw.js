// Curves and strips, drawn on a canvas in the colours of the page.

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const lineColour = (number) => colour(`--c${number % 8}`);

function prepared(canvas, height) {
  const width = canvas.clientWidth || 300;
  const scale = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.font = "11px system-ui, sans-serif";
  return [pen, width];
}

function bounds(numbers) {
  let low = Infinity;
  let high = -Infinity;
  for (const number of numbers) {
    if (number < low) low = number;
    if (number > high) high = number;
  }
  if (low === high) {
    const room = Math.abs(low) * 0.05 || 0.5;
    return [low - room, high + room];
  }
  return [low, high];
}

// `curves`: [{points: [[step, value or null]]}]. With `log`, of the values' logarithm.
export function drawCurves(canvas, curves, log) {
  const height = 260;
  const [pen, width] = prepared(canvas, height);
  const fits = ([, value]) => value !== null && (!log || value > 0);
  const all = curves.flatMap((curve) => curve.points.filter(fits));
  pen.fillStyle = colour("--dim");
  if (!all.length) {
    pen.fillText("no values yet", 8, 20);
    return;
  }
  const up = (value) => (log ? Math.log10(value) : value);
  const [left, right] = bounds(all.map(([step]) => step));
  const [low, high] = bounds(all.map(([, value]) => up(value)));
  const [x0, y0, x1, y1] = [56, 8, width - 10, height - 22];
  const across = (step) => x0 + ((step - left) / (right - left)) * (x1 - x0);
  const down = (value) => y1 - ((up(value) - low) / (high - low)) * (y1 - y0);
  pen.strokeStyle = colour("--line");
  pen.textAlign = "right";
  for (let part = 0; part <= 4; part += 1) {
    const y = y0 + ((y1 - y0) * part) / 4;
    const value = high - ((high - low) * part) / 4;
    pen.beginPath();
    pen.moveTo(x0, y);
    pen.lineTo(x1, y);
    pen.stroke();
    pen.fillText(Number((log ? 10 ** value : value).toPrecision(3)).toString(), x0 - 6, y + 4);
  }
  pen.textAlign = "left";
  pen.fillText(Number(left.toPrecision(6)).toString(), x0, height - 6);
  pen.textAlign = "right";
  pen.fillText(Number(right.toPrecision(6)).toString(), x1, height - 6);
  pen.lineWidth = 1.5;
  curves.forEach((curve, number) => {
    pen.strokeStyle = lineColour(number);
    pen.fillStyle = lineColour(number);
    pen.beginPath();
    let begun = false;
    for (const point of curve.points) {
      if (!fits(point)) {
        begun = false;
        continue;
      }
      const [x, y] = [across(point[0]), down(point[1])];
      if (begun) pen.lineTo(x, y);
      else pen.moveTo(x, y);
      if (curve.points.length === 1) pen.fillRect(x - 2, y - 2, 4, 4);
      begun = true;
    }
    pen.stroke();
  });
}

// `strips`: [[label, [share or null]]], a row of cells each.
export function drawStrips(canvas, strips) {
  const row = strips.length > 40 ? 6 : 14;
  const [pen, width] = prepared(canvas, strips.length * row + 4);
  const x0 = Math.min(150, width / 3);
  strips.forEach(([label, shares], at) => {
    const y = at * row + 2;
    if (row > 10) {
      pen.fillStyle = colour("--dim");
      pen.fillText(label, 0, y + 10, x0 - 6);
    }
    const cell = (width - x0) / shares.length;
    shares.forEach((share, column) => {
      if (share === null) return;
      pen.globalAlpha = 0.08 + 0.92 * Math.min(share, 1);
      pen.fillStyle = colour("--c0");
      pen.fillRect(x0 + column * cell, y, Math.max(cell - 0.5, 0.5), row - 2);
    });
    pen.globalAlpha = 1;
  });
}
