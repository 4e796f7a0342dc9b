// How silhouettes, regions and marks look. `pen`, `canvas` and `object` are viewer.js's.
// One pixel of the screen, in pixels of the frame: lines look the same in clips of any size.
const unit = () => canvas.width / (canvas.clientWidth || canvas.width);

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
  pen.fillStyle = number === object ? "rgba(60,220,90,.38)" : "rgba(60,220,90,.2)";
  pen.fill(shape, "evenodd");
  pen.strokeStyle = "#2fbf55";
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
  pen.fillText(number, lines[0][0] + 3 * unit(), lines[0][1] + high * unit());
}

function mark(one) {
  if (one.width !== undefined) return frameOf(one.x, one.y, one.width, one.height, "#2fbf55");
  pen.beginPath();
  pen.arc(one.x + 0.5, one.y + 0.5, 5 * unit(), 0, 7);
  pen.fillStyle = one.positive ? "#1fae4b" : "#e02020";
  pen.fill();
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
