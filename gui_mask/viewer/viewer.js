// The viewer: frames with silhouettes and regions; clicks, boxes and the timeline.
// `element`, `props`, `server` and `watch` are given by gr.HTML. All state is the server's; this
// page keeps a copy that is as new as `state.version`. How things look is in shared.js, and
// what a person reads in words.py (`words`).
const find = (selector) => element.querySelector(selector);
const all = (selector) => [...element.querySelectorAll(selector)];
const canvas = find("canvas"), slider = find("[data-frames]"), status = find(".status");
const brush = find("[data-size]"), opacity = find("[data-opacity]");
const pen = canvas.getContext("2d");
const ERASES = { brush: false, eraser: true };  // the tools that paint
let state = null;       // what the server says
let images = [];        // one per frame
let frame = 0, object = 1, tool = "positive";
let band = null;        // the rectangle that is being dragged
let drawn = null;       // the stroke that is being painted
let pointer = null;     // where the pointer is
let playing = null, polling = null;
let followed = performance.now();  // since when objects are tracked
let queue = Promise.resolve(), waiting = 0;
let pending = [];       // points, boxes and strokes that are not answered yet

function tell(text, isError) {
  status.textContent = text || "";
  status.classList.toggle("error", Boolean(isError));
}

async function refresh() {
  const version = state ? state.version : 0, regions = state && state.regions ? state.at : 0;
  take(answered(await server.view({ token: props.value.token, version, regions })));
}

// A server that is gone gives no answer, and no error either.
function answered(news) {
  if (!news) throw new Error(words.no_answer);
  return news;
}

// Lay what is new over what is known; whoever answers late is older and is left out.
function take(news) {
  if (news.error) tell(news.error, true);
  if (!news.version || !props.value || news.token !== props.value.token) return;
  const isNew = !state || news.version > state.version || news.message !== state.message;
  if (!state || state.token !== news.token) {
    if (!news.count) return;
    start(news);
  } else if (news.version < state.version) return;
  else {
    Object.assign(state.frames, news.frames);
    state = { ...state, ...news, frames: state.frames };
  }
  if (news.regions) state.at = news.version;
  if (!news.error && isNew) tell(news.message || (news.notes || []).join(" "), false);
  pollSoon(300);
  controls();
  draw();
}

function start(news) {
  state = news;
  frame = Math.min(frame, news.count - 1);
  object = news.objects[0] || 1;
  canvas.width = news.width;
  canvas.height = news.height;
  canvas.style.setProperty("--aspect", news.width / news.height);
  brush.max = Math.round(news.height / 5);
  brush.value = Math.round(news.height / 30);
  slider.max = news.count - 1;
  find(".empty").hidden = true;
  images = Array.from({ length: news.count }, () => new Image());
  load(0);
}

// Frames are fetched one after the other, so that the first is there at once.
function load(number) {
  if (number >= images.length) return;
  const image = images[number];
  image.onload = () => {
    canvas.dataset.loaded = number + 1;
    if (number === frame) draw();
    if (images[number] === image) load(number + 1);
  };
  image.onerror = () => tell(`${number}: ${words.no_frame}`, true);
  image.src = new URL(`maskora/${state.token}/frame/${number}.jpg`, document.baseURI).href;
}

// While objects are followed, and also where a question got no answer.
function pollSoon(milliseconds) {
  if (state && state.tracking && !polling) polling = setTimeout(poll, milliseconds);
}

async function poll() {
  polling = null;
  await attempt(refresh);
  pollSoon(1500);
}

async function attempt(work) {
  try {
    await work();
  } catch (error) {
    console.info(error);
    tell(words.no_answer, true);
  }
}

// Actions go out one by one, in the order in which they were made, and to the clip that they meant.
function act(name, more) {
  if (!state) return;
  const token = state.token;
  canvas.dataset.waiting = ++waiting;
  const note = doing(name);
  const slow = setTimeout(() => tell(note), 400);
  const point = ["click", "box", "paint"].includes(name) ? { ...more, waits: true } : null;
  if (point) pending.push(point);
  draw();
  queue = queue.then(() => attempt(async () => {
    if (!state || state.token !== token) return;
    const regions = state.regions ? state.at : 0;
    const asked = { token, version: state.version, regions, name, ...more };
    const news = answered(await server.act(asked));
    clearTimeout(slow);
    if (status.textContent === note) tell("");
    take(news);
  })).finally(() => {
    clearTimeout(slow);
    pending = pending.filter((one) => one !== point);
    if (point) draw();
    if (!--waiting) delete canvas.dataset.waiting;
  });
}

// What goes on, and how long that took last time.
function doing(name) {
  const what = words[`doing_${name}`];
  if (!what) return words.working;
  const last = state.took[name];
  return `${what} … (${last ? `${words.last_time} ${Math.max(1, Math.round(last))} s` : words.first_time})`;
}

function progress([done, total]) {
  if (!done) followed = performance.now();
  const left = done ? (total - done) * (performance.now() - followed) / 1000 / done : 0;
  const rest = done > 1 ? `, ${words.about} ${Math.max(1, Math.round(left))} s ${words.left}` : "";
  tell(`${words.tracking}: ${done} / ${total}${rest}`);
}

function controls() {
  const numbers = [...new Set([...state.objects, object])].sort((a, b) => a - b);
  const chips = find(".objects");
  const called = numbers.map((number) => chip(nameOf(number), number, true));
  chips.replaceChildren(...called, chip(words.new_object, Math.max(...numbers) + 1, false));
  const name = find(".name");
  if (document.activeElement !== name) name.value = state.names[object] || "";
  find(".colour").value = plainColour(colourOf(object));
  find(".size").hidden = !(tool in ERASES);
  for (const button of all("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === tool);
  const busy = state.tracking;
  for (const button of all("[data-follow], [data-action]")) button.disabled = Boolean(busy) && button.dataset.action !== "stop";
  find("[data-action=stop]").hidden = find("progress").hidden = !busy;
  if (busy) find("progress").value = busy[0] / busy[1];
  if (busy && !status.classList.contains("error")) progress(busy);
  find(".saved").textContent = busy || state.saved ? "" : words.not_saved;
  find("[data-play]").textContent = playing ? words.pause : words.play;
  find("[data-play]").setAttribute("aria-label", playing ? words.to_pause : words.to_play);
  ticks();
}

const nameOf = (number) => state.names[number] || `${number}`;

function chip(text, number, isThere) {
  const button = document.createElement("button"), dot = document.createElement("i");
  dot.style.background = colourOf(number);
  button.type = "button";
  button.replaceChildren(...(isThere ? [dot] : []), text);
  button.setAttribute("aria-label", isThere ? `${words.an_object} ${number}` : words.a_new_object);
  button.setAttribute("aria-pressed", number === object);
  button.onclick = () => choose(number);
  return button;
}

function choose(number) {
  object = number;
  controls();
  draw();
}

function ticks() {
  const place = (number, kind) => {
    const tick = document.createElement("i");
    tick.className = kind;
    tick.style.left = `${(100 * number) / Math.max(1, state.count - 1)}%`;
    return tick;
  };
  find(".ticks").replaceChildren(...state.pointed.map((number) => place(number, "")));
}

function draw() {
  slider.value = frame;
  find(".number").textContent = state ? `${frame} / ${state.count - 1}` : "–";
  const image = images[frame];
  if (!state || !image || !image.complete || !image.naturalWidth) return;
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  const own = state.frames[frame] || { silhouettes: [], marks: [] };
  for (const [number, lines] of own.silhouettes) silhouette(number, lines);
  const regions = (!state.tracking && state.regions && state.regions[frame]) || [];
  for (const [number, lines] of regions) region(number, lines);
  const waits = pending.filter((one) => one.frame === frame);
  const strokes = [...waits, ...(drawn && drawn.frame === frame ? [drawn] : [])].filter((one) => one.points);
  strokes.forEach(sketch);
  [...own.marks, ...waits.filter((one) => !one.points)].forEach(mark);
  if (pointer && tool in ERASES) ring(pointer, Number(brush.value));
  if (band) frameOf(band.x, band.y, band.width, band.height, "#fff");
  canvas.dataset.frame = frame;
  canvas.dispatchEvent(new CustomEvent("shown", { detail: frame }));
}

function show(number) {
  if (!state) return;
  frame = Math.max(0, Math.min(state.count - 1, number));
  draw();
}

function pause() {
  clearInterval(playing);
  playing = null;
}

function play() {
  if (!state) return;
  if (playing) pause();
  else playing = setInterval(() => show((frame + 1) % state.count), 1000 / Math.min(state.fps, 30));
  controls();
}

function position(event) {
  const seen = canvas.getBoundingClientRect();
  const x = ((event.clientX - seen.left) * canvas.width) / seen.width;
  const y = ((event.clientY - seen.top) * canvas.height) / seen.height;
  return { x: Math.max(0, Math.min(canvas.width, x)), y: Math.max(0, Math.min(canvas.height, y)) };
}

canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("pointerdown", (event) => {
  if (!state || (event.button !== 0 && event.button !== 2)) return;
  find(".viewer").focus({ preventScroll: true });
  const { x, y } = position(event);
  if (tool === "box" && event.button === 0) {
    canvas.setPointerCapture(event.pointerId);
    pause();
    band = { from: { x, y, frame }, x, y, width: 0, height: 0 };
    return;
  }
  if (tool in ERASES) {
    canvas.setPointerCapture(event.pointerId);
    pause();
    const positive = event.button === 0 && !event.shiftKey && !ERASES[tool];
    drawn = { frame, object, radius: Number(brush.value), points: [middle(x, y)], positive };
    return draw();
  }
  const positive = event.button === 0 && !event.shiftKey && tool !== "negative";
  const within = (value, size) => Math.max(0, Math.min(size - 1, value - 0.5));
  act("click", { frame, x: within(x, canvas.width), y: within(y, canvas.height), positive, object });
});
canvas.addEventListener("pointermove", (event) => {
  const { x, y } = pointer = position(event);
  if (drawn) draws(event);
  if (!band) return tool in ERASES ? draw() : undefined;
  const from = band.from;
  band = { from, x: Math.min(x, from.x), y: Math.min(y, from.y), width: Math.abs(x - from.x), height: Math.abs(y - from.y) };
  draw();
});
canvas.addEventListener("pointerup", () => {
  const dragged = band, stroke = drawn;
  band = drawn = null;
  if (stroke) return act("paint", stroke);
  if (!dragged) return;
  if (dragged.width < 3 || dragged.height < 3) tell(words.drag_first, true);
  else act("box", { frame: dragged.from.frame, x: dragged.x, y: dragged.y, width: dragged.width, height: dragged.height, object });
  draw();
});
canvas.addEventListener("pointercancel", () => { band = drawn = null; draw(); });
canvas.addEventListener("pointerleave", () => { pointer = null; draw(); });

// A point names a pixel's middle; to a tenth of a pixel.
const middle = (x, y) => [x, y].map((size) => Math.round((size - 0.5) * 10) / 10);

function draws(event) {
  const moves = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  for (const one of moves.length ? moves : [event]) {
    const { x, y } = position(one), [lastX, lastY] = drawn.points[drawn.points.length - 1];
    const next = middle(x, y);
    if (Math.hypot(next[0] - lastX, next[1] - lastY) >= Math.max(1, drawn.radius / 8)) drawn.points.push(next);
  }
}

slider.addEventListener("input", () => show(Number(slider.value)));
opacity.value = chosen("opacity", opacity.value);
opacity.addEventListener("change", () => keep("opacity", opacity.value));
for (const one of [brush, opacity]) one.addEventListener("input", draw);
find(".colour").addEventListener("input", (event) => { recolour(object, event.target.value); controls(); draw(); });
find(".name").addEventListener("change", (event) => act("name", { object, text: event.target.value }));
find(".name").addEventListener("keydown", (event) => { if (event.key === "Enter") event.target.blur(); });
for (const button of all("[data-step]")) button.onclick = () => show(frame + Number(button.dataset.step));
for (const button of all("[data-tool]")) button.onclick = () => use(button.dataset.tool);
find("[data-help]").onclick = help;
for (const button of all("[data-action]")) button.onclick = () => act(button.dataset.action, { frame, object });
for (const button of all("[data-follow]")) button.onclick = () => act("follow", { direction: button.dataset.follow, frame });
find("[data-play]").onclick = play;
find(".viewer").addEventListener("keydown", (event) => {
  if (event.target.type === "text" || (event.target.tagName === "INPUT" && event.key.startsWith("Arrow"))) return;
  if (event.altKey || ((event.ctrlKey || event.metaKey) && event.key !== "z")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "ArrowLeft") show(frame - 1);
  else if (key === "ArrowRight") show(frame + 1);
  else if (key === "Home") show(0);
  else if (key === "End") show(state ? state.count - 1 : 0);
  else if (key === " " && event.target.tagName !== "BUTTON") play();
  else if (key === "z" && (event.ctrlKey || event.metaKey)) act(event.shiftKey ? "redo" : "undo", {});
  else if (key === "[" || key === "]") resize(key === "]");
  else if (key === "?") help();
  else if (key in TOOLS) use(TOOLS[key]);
  else if (state && key === "t" && !state.tracking) act("follow", { direction: "both", frame });
  else if (state && key === "n") choose(Math.max(object, ...state.objects) + 1);
  else if (state && state.objects.includes(Number(key))) choose(Number(key));
  else return;
  event.preventDefault();
});

const TOOLS = { a: "positive", r: "negative", b: "box", p: "brush", e: "eraser" };

function resize(isLarger) {
  const size = Number(brush.value);
  brush.value = isLarger ? Math.max(size + 1, size * 1.2) : Math.min(size - 1, size / 1.2);
  draw();
}

function use(name) {
  tool = name;
  if (!state) return;
  controls();
  draw();
}

function opened() {
  if (!props.value || !props.value.token) return;
  find(".empty").textContent = words.loading;
  if (state && state.token !== props.value.token) {
    pause();
    state = band = drawn = null;
    pending = [];
    frame = 0;
    images = [];
    tell("");
  }
  attempt(refresh);
}
// What another page on the same workspace has done is seen here too, a little later.
setInterval(() => { if (state && !state.tracking && !waiting && !document.hidden) attempt(refresh); }, 3000);
watch("value", opened);
opened();
