// What the viewer and the easel share: how silhouettes, regions and marks look, this browser's
// choices, and the list of keys. `find`, `pen`, `canvas` and `object` are each page's own.
// One pixel of the screen, in pixels of the frame: lines look the same in clips of any size.
const unit = () => canvas.width / (canvas.clientWidth || canvas.width);

// Each object has its colour; red is the region's, and a refused point's.
const COLOURS = ["#2fbf55", "#3b82f6", "#f59e0b", "#c026d3", "#06b6d4", "#a3e635", "#8b5cf6", "#f472b6"];
// This browser's own choices, by what they are of.
const chosen = (name, otherwise) => JSON.parse(localStorage.getItem(`maskora.${name}`)) || otherwise;
const keep = (name, choice) => localStorage.setItem(`maskora.${name}`, JSON.stringify(choice));

function help() {
  const list = find(".keys");
  list.hidden = !list.hidden;
  find("[data-help]").setAttribute("aria-expanded", !list.hidden);
}

let colours = chosen("colours", {});
// After the eighth, hues that lie as far apart as they can.
const colourOf = (number) => colours[number] || COLOURS[number - 1] || `hsl(${Math.round(number * 137.5) % 360} 70% 55%)`;

// The same as #rrggbb, which is what an <input type=color> takes.
function plainColour(colour) {
  pen.fillStyle = colour;
  return pen.fillStyle;
}

function recolour(number, colour) {
  colours = { ...colours, [number]: colour };
  keep("colours", colours);
}

function path(lines) {
  const shape = new Path2D();
  for (const line of lines) {
    for (let i = 0; i < line.length; i += 2) shape[i ? "lineTo" : "moveTo"](line[i] + 0.5, line[i + 1] + 0.5);
    shape.closePath();
  }
  return shape;
}

function silhouette(number, lines) {
  const shape = path(lines);
  pen.fillStyle = colourOf(number);
  pen.globalAlpha = (number === object ? 1 : 0.55) * Number(opacity.value) / 100;
  pen.fill(shape, "evenodd");
  pen.globalAlpha = 1;
  pen.strokeStyle = colourOf(number);
  pen.lineWidth = 1.5 * unit();
  pen.stroke(shape);
}

function region(number, lines) {
  pen.strokeStyle = "#ff4646";
  pen.lineWidth = 2 * unit();
  pen.stroke(path(lines));
  if (!lines.length) return;
  pen.font = `600 ${13 * unit()}px sans-serif`;
  pen.fillStyle = "#ff4646";
  const high = lines[0][1] > 18 * unit() ? -5 : 16;
  pen.fillText(nameOf(number), lines[0][0] + 3 * unit(), lines[0][1] + high * unit());
}

// A stroke of the brush that is not answered yet: what is erased is seen as it was.
function sketch({ points, radius, positive, object: number }) {
  pen.beginPath();
  for (const [x, y] of points) pen.lineTo(x + 0.5, y + 0.5);
  if (points.length === 1) pen.lineTo(points[0][0] + 0.51, points[0][1] + 0.5);
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = 2 * radius;
  pen.globalAlpha = 0.6;
  pen.strokeStyle = positive ? colourOf(number) : "#14161a";
  pen.stroke();
  pen.globalAlpha = 1;
}

function ring(point, radius) {
  pen.beginPath();
  pen.arc(point.x, point.y, radius, 0, 7);
  pen.lineWidth = unit();
  pen.strokeStyle = "#fff";
  pen.stroke();
}

function mark(one) {
  if (one.width !== undefined) return frameOf(one.x, one.y, one.width, one.height, colourOf(one.object));
  pen.beginPath();
  pen.arc(one.x + 0.5, one.y + 0.5, 5 * unit(), 0, 7);
  pen.fillStyle = one.positive ? colourOf(one.object) : "#e02020";
  pen.globalAlpha = one.waits ? 0.45 : 1;  // it is not answered yet
  pen.fill();
  pen.globalAlpha = 1;
  pen.lineWidth = 1.5 * unit();
  pen.strokeStyle = "#fff";
  pen.stroke();
}

function frameOf(x, y, width, height, colour) {
  pen.setLineDash([6 * unit(), 4 * unit()]);
  pen.lineWidth = 1.5 * unit();
  pen.strokeStyle = colour;
  pen.strokeRect(x, y, width, height);
  pen.setLineDash([]);
}
