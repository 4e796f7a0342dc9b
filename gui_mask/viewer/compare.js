// Before and after: comparison.mp4 has source | mask | edit beside each other, so that one video
// keeps both in step. `element` is given by gr.HTML, whose content comes and goes.
const parts = () => {
  const box = element.querySelector("details.compare");
  if (!box || !box.open) return null;
  const [edge, time] = box.querySelectorAll("input");
  return { video: box.querySelector("video"), canvas: box.querySelector("canvas"), edge, time };
};

function paint() {
  const found = parts();
  if (!found) return;
  const { video, canvas, edge, time } = found, wide = video.videoWidth / 3, high = video.videoHeight;
  if (wide && video.readyState > 1) {
    if (canvas.width !== Math.round(wide)) [canvas.width, canvas.height] = [Math.round(wide), high];
    const pen = canvas.getContext("2d"), at = (edge.value / 100) * canvas.width;
    pen.drawImage(video, 0, 0, wide, high, 0, 0, canvas.width, high);
    pen.drawImage(video, 2 * wide + at, 0, wide - at, high, at, 0, canvas.width - at, high);
    pen.fillStyle = "#fff";
    pen.fillRect(at - 1, 0, 2, high);
    if (!video.paused) time.value = (100 * video.currentTime) / video.duration;
  }
  requestAnimationFrame(paint);
}

element.addEventListener("toggle", () => {
  const found = parts();
  if (!found) return;
  found.video.play();
  paint();
}, true);
element.addEventListener("input", (event) => {
  const found = parts();
  if (!found || event.target !== found.time) return;
  found.video.pause();
  found.video.currentTime = (found.time.value / 100) * found.video.duration;
});
element.addEventListener("click", (event) => {
  const found = parts();
  if (!found || event.target !== found.canvas) return;
  if (found.video.paused) found.video.play();
  else found.video.pause();
});
