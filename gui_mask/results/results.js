// Before and after, the versions of a result, and the queue. A version's comparison.mp4 has source |
// mask | edit beside each other, so that one video keeps both in step. `element`, `server` and
// `trigger` are given by gr.HTML, whose content comes and goes.
const shown = () => {
  const box = element.querySelector("details.compare");
  if (!box || !box.open) return null;
  const [edge, time] = box.querySelectorAll("input");
  const side = (name) => box.querySelector(`[data-side=${name}]`).selectedOptions[0];
  return {
    box, edge, time, canvas: box.querySelector("canvas"), view: box.querySelector("[data-view]").value,
    left: box.querySelector("video.left"), right: box.querySelector("video.right"),
    from: side("left"), to: side("right"), count: Number(box.dataset.count), rate: Number(box.dataset.rate),
  };
};

// A video is fetched when it is first wanted. It knows which one itself: attributes are set back
// when the content is laid out anew.
function fetched(video, option) {
  const wanted = option.dataset.src;
  if (!wanted || video.fetched === wanted) return;
  video.src = video.fetched = wanted;
}

const frameAt = ({ right, rate, count }) => Math.min(count - 1, Math.max(0, Math.floor(right.currentTime * rate + 0.01)));

function open(found) {
  fetched(found.right, found.to);
  fetched(found.left, found.from);
}

let compared = null;  // whose result, and its two sides, as long as they are compared
let next = 0;  // the picture that is painted next
let kept = false;  // whether what opens was open already

function paint() {
  const found = shown();
  if (!found) return;
  const { left, right, from, canvas, edge, time, view, rate } = found;
  open(found);
  const other = from.dataset.src ? left : right;
  if (other === left && left.readyState > 0 && Math.abs(left.currentTime - right.currentTime) > 0.75 / rate) {
    left.currentTime = right.currentTime;
  }
  if (other === left && left.paused !== right.paused) right.paused ? left.pause() : left.play();
  const wide = right.videoWidth / 3, high = right.videoHeight;
  if (wide && right.readyState > 1 && other.readyState > 1) {
    const across = view === "beside" ? 2 * wide : wide;
    if (canvas.width !== Math.round(across)) canvas.width = Math.round(across);
    if (canvas.height !== high) canvas.height = high;
    const pen = canvas.getContext("2d"), at = view === "line" ? (edge.value / 100) * wide : wide;
    const start = other === left ? 2 * wide : 0;
    pen.globalCompositeOperation = "source-over";
    pen.drawImage(other, start, 0, wide, high, 0, 0, wide, high);
    if (view === "beside") pen.drawImage(right, 2 * wide, 0, wide, high, wide, 0, wide, high);
    if (view === "difference") {
      pen.globalCompositeOperation = "difference";
      pen.drawImage(right, 2 * wide, 0, wide, high, 0, 0, wide, high);
    }
    if (view === "line") {
      if (at < wide) pen.drawImage(right, 2 * wide + at, 0, wide - at, high, at, 0, wide - at, high);
      pen.fillStyle = "#fff";
      const thick = (2 * wide) / (canvas.clientWidth || wide);  // two pixels of the page
      pen.fillRect(at - thick / 2, 0, thick, high);
    }
    if (!right.paused) time.value = frameAt(found);
    canvas.dataset.frame = found.box.querySelector("output.frame").textContent = time.value;
  }
  edge.closest("label").hidden = view !== "line";
  const sides = [found.from, found.to].map(({ value, dataset }) => ({ value, made: dataset.made }));
  compared = { ...place(found.box), sides };
  cancelAnimationFrame(next);
  next = requestAnimationFrame(paint);
}

// What is laid out anew is closed, and its sides are other versions' where one has come or gone.
function reopen() {
  const box = element.querySelector("details.compare");
  if (!box || !compared) return;
  const { token, edit } = place(box);
  if (token !== compared.token || edit !== compared.edit) return;
  for (const [number, name] of ["left", "right"].entries()) {
    const { options } = box.querySelector(`[data-side=${name}]`), { value, made } = compared.sides[number];
    const same = [...options].find((option) => option.value === value && option.dataset.made === made);
    (same || options[0]).selected = true;
  }
  kept = box.open = true;
}

element.addEventListener("toggle", () => {
  const found = shown();
  if (!found) return reopen();
  open(found);
  if (!kept) found.right.play();
  kept = false;
  paint();
}, true);
element.addEventListener("input", (event) => {
  const found = shown();
  if (!found || event.target !== found.time) return;
  found.right.pause();
  found.right.currentTime = (Number(found.time.value) + 0.5) / found.rate;
});

const place = (target) => {
  const { token, edit } = target.closest(".results").dataset;
  return { token, edit };
};
function ask(request, then) {
  const note = element.querySelector(".note");
  return server.act(request).then(
    (news) => { if (note) note.textContent = news.error || ""; if (!news.error) then(); },
    (error) => { if (note) note.textContent = `${error.message || error}`; },
  );
}
const again = () => trigger("submit");

element.addEventListener("click", (event) => {
  const found = shown(), button = event.target.closest("button");
  if (event.target.closest("summary")) compared = null;  // closed by hand, or not compared yet
  if (found && event.target === found.canvas) return found.right.paused ? found.right.play() : found.right.pause();
  if (!button) return;
  if (button.dataset.ticket) return ask({ name: "withdraw", ...button.dataset }, again);
  if (found && button.hasAttribute("data-wrong")) {
    found.right.pause();
    const frame = Number(found.time.value), version = Number(found.to.value);
    const made = Number(found.to.dataset.made);
    button.disabled = true;
    return ask({ name: "wrong", frame, version, made, ...place(button) }, () => trigger("select", { index: frame, value: frame }))
      .finally(() => { button.disabled = false; });
  }
  const item = button.closest("[data-version]");
  if (!item) return;
  const version = Number(item.dataset.version);
  const where = { made: Number(item.dataset.made), ...place(button) };
  if (button.dataset.star) return ask({ name: "star", version, on: button.dataset.star === "1", ...where }, again);
  if (button.dataset.remove) {
    if (window.confirm(button.dataset.remove)) ask({ name: "remove", version, ...where }, again);
    return;
  }
  // Compare: this one on the left, the newest other one on the right.
  const box = element.querySelector("details.compare");
  const left = box.querySelector("[data-side=left]"), right = box.querySelector("[data-side=right]");
  const newest = right.options[0].value;
  if (item.dataset.version === newest) [left.value, right.value] = ["", newest];
  else [left.value, right.value] = [item.dataset.version, newest];
  box.open = true;
  box.scrollIntoView({ block: "nearest" });
});
