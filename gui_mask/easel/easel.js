// The easel: one frame of an edit and the tools that change it. `element`, `props`, `server`,
// `watch`, `upload` and `trigger` are given by gr.HTML. The server makes every picture; what is
// drawn here before it answers is a sketch. How a region looks is in shared.js.
const find = (selector) => element.querySelector(selector);
const all = (selector) => [...element.querySelectorAll(selector)];
const canvas = find("canvas"), status = find(".status"), pen = canvas.getContext("2d");
const object = 0;
let state = null;                     // what the server says of the frame
let tool = "recolour";
let shown = null, before = null;      // pictures
let drawn = null, pointer = null;     // points of a stroke; where the pointer is
let sticker = null, held = null;      // what is placed: {name, image, x, y}; where it was taken hold of
let comparing = false;
let queue = Promise.resolve(), waiting = 0, previewing = null, changed = null;

function tell(text, isError) {
  status.textContent = text || "";
  status.classList.toggle("error", Boolean(isError));
}

// Another stamp alone means that something has changed there.
const isSame = (one, other) => ["token", "edit", "frame"].every((key) => one[key] === other[key]);
const options = (name) => find(`.options[data-for=${name}]`);
const field = (name, key) => options(name).querySelector(`[data-key=${key}]`);
const value = (name, key) => field(name, key).value;
const number = (name, key) => Number(value(name, key));

function loaded(source) {
  const image = new Image();
  image.onload = draw;
  image.src = source;
  return image;
}

// Requests go out one by one, in order, and to the frame that they meant.
function ask(name, more) {
  const place = props.value;
  if (!place || !place.token) return;
  canvas.dataset.waiting = ++waiting;
  const note = (state && state.busy[name]) || "";
  let said = null;  // before it was said that this takes a while
  const slow = setTimeout(() => {
    said = [status.textContent, status.classList.contains("error")];
    tell(note || words.working);
  }, note ? 0 : 400);
  queue = queue.then(async () => {
    if (!isSame(place, props.value)) {
      if (said) tell(...said);
      return;
    }
    const news = await server.use({ ...place, name, ...more });
    clearTimeout(slow);
    if (said) tell(...said);
    if (!news) throw new Error(words.no_answer);
    if (isSame(place, props.value)) take(news, name);
  }).catch((error) => {
    console.info(error);
    tell(words.no_answer, true);
  })
    .finally(() => {
      clearTimeout(slow);
      if (!--waiting) delete canvas.dataset.waiting;
    });
}

function take(news, name) {
  // What went wrong stays to be read, whatever is looked for meanwhile.
  if (news.error || news.note || name !== "look") tell(news.error || news.note, Boolean(news.error));
  if (!news.picture) return;
  const isOther = !state || !isSame(state.place, props.value);
  if (isOther || state.width !== news.width || state.height !== news.height || state.count !== news.count) {
    canvas.width = news.width;
    canvas.height = news.height;
    canvas.style.setProperty("--aspect", news.width / news.height);
    field("copy", "number").max = news.count - 1;
    find(".empty").hidden = true;
  }
  state = { ...news, place: props.value };
  shown = loaded(news.picture);
  if (news.before) before = loaded(news.before);
  if (news.sticker) sticker = { ...sticker, name: news.sticker };
  if (news.done !== undefined) {
    find(".steps").textContent = news.steps.length ? `${words.step} ${news.done} ${words.step_of} ${news.steps.length}: ${news.done ? news.steps[news.done - 1] : words.as_before}` : words.unchanged;
    canvas.dataset.done = news.done;
  }
  if (news.candidates || name === "choose" || isOther) candidates(news.candidates || []);
  controls();
  // The list of edited frames follows, once the hand rests.
  if (["look", "preview", "picture"].includes(name) || news.error) return;
  clearTimeout(changed);
  changed = setTimeout(() => trigger("submit"), 1200);
}

function candidates(pictures) {
  find(".candidates").replaceChildren(...pictures.map((source, index) => {
    const button = document.createElement("button"), image = document.createElement("img");
    button.type = "button";
    button.title = words.take_this;
    button.setAttribute("aria-label", `${words.candidate} ${index + 1}`);
    image.src = source;
    image.alt = "";
    button.append(image);
    button.onclick = () => ask("choose", { number: index + 1 });
    return button;
  }));
}

function controls() {
  for (const button of all("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === tool);
  for (const row of all(".options")) row.toggleAttribute("data-shown", row.dataset.for === tool);
  const can = Boolean(state && state.region.length);
  for (const button of all("[data-apply]")) button.disabled = !can;
  find("[data-action=undo]").disabled = !can || !state.done;
  find("[data-action=redo]").disabled = !can || state.done === state.steps.length;
  find(".no-editor").hidden = Boolean(state && state.editor);
  options("instruct").querySelector("[data-apply]").disabled = !can || !state.editor;
  const missing = !state ? "" : !state.frame ? words.later_frame : state.trained ? "" : words.not_trained;
  find(".no-lora").textContent = missing;
  options("carry").querySelector("[data-apply]").disabled = !can || Boolean(missing);
  draw();
}

function draw() {
  const image = comparing ? before : shown;
  if (!state || !image || !image.complete || !image.naturalWidth) return;
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.dataset.frame = state.frame;
  if (comparing) return;
  const whole = state.region.flatMap(([, lines]) => lines);
  pen.save();
  pen.clip(path(whole), "evenodd");
  if (drawn) sketchStroke();
  if (sticker && tool === "place") sketchSticker();
  pen.restore();
  pen.strokeStyle = "#ff4646";
  pen.lineWidth = 1.5 * unit();
  pen.stroke(path(whole));
  if (pointer && ["paint", "restore", "erase"].includes(tool)) ring(pointer, number(tool, "radius"));
}

function sketchStroke() {
  pen.beginPath();
  for (const [x, y] of drawn) pen.lineTo(x + 0.5, y + 0.5);
  if (drawn.length === 1) pen.lineTo(drawn[0][0] + 0.51, drawn[0][1] + 0.5);
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = 2 * number(tool, "radius");
  pen.globalAlpha = tool === "paint" ? number(tool, "opacity") / 100 : 0.6;
  pen.strokeStyle = tool === "paint" ? value("paint", "colour") : tool === "erase" ? "#ff4646" : "#fff";
  pen.stroke();
  pen.globalAlpha = 1;
}

function sketchSticker() {
  const width = stickerWidth(), { image, x, y } = sticker;
  const height = (width * image.naturalHeight) / image.naturalWidth;
  pen.globalAlpha = number("place", "opacity") / 100;
  pen.globalCompositeOperation = value("place", "blend").replace("normal", "source-over");
  pen.translate(x + 0.5, y + 0.5);
  pen.rotate((number("place", "angle") * Math.PI) / 180);
  pen.drawImage(image, -width / 2, -height / 2, width, height);
}

const stickerWidth = () => (sticker.start * number("place", "width")) / 100;

function position(event) {
  const seen = canvas.getBoundingClientRect();
  return {
    x: ((event.clientX - seen.left) * canvas.width) / seen.width,
    y: ((event.clientY - seen.top) * canvas.height) / seen.height,
  };
}
// A point names a pixel's middle.
const tenth = (size) => Math.round((size - 0.5) * 10) / 10;

canvas.addEventListener("pointerdown", (event) => {
  if (!state || !state.region.length || event.button !== 0) return;
  find(".viewer").focus({ preventScroll: true });
  const { x, y } = position(event);
  if (tool === "swap" || (tool === "paint" && event.altKey)) return pick(x, y);
  if (tool === "place" && sticker) held = { x: x - sticker.x, y: y - sticker.y };
  else if (["paint", "restore", "erase"].includes(tool)) drawn = [[tenth(x), tenth(y)]];
  else return;
  canvas.setPointerCapture(event.pointerId);
  draw();
});
canvas.addEventListener("pointermove", (event) => {
  pointer = position(event);
  if (held) sticker = { ...sticker, x: pointer.x - held.x, y: pointer.y - held.y };
  if (drawn) {
    const [x, y] = drawn[drawn.length - 1];
    if (Math.hypot(tenth(pointer.x) - x, tenth(pointer.y) - y) >= 1) drawn.push([tenth(pointer.x), tenth(pointer.y)]);
  }
  draw();
});
canvas.addEventListener("pointerup", () => {
  const points = drawn;
  drawn = held = null;
  if (points) stroke(points);
});
canvas.addEventListener("pointercancel", () => { drawn = held = null; draw(); });
canvas.addEventListener("pointerleave", () => { pointer = null; draw(); });
canvas.addEventListener("wheel", (event) => {
  if (tool !== "place" || !sticker) return;
  event.preventDefault();
  const key = event.shiftKey ? "angle" : "width", turn = event.deltaY || event.deltaX;
  field("place", key).value = number("place", key) - Math.sign(turn) * 4;
  draw();
}, { passive: false });

function pick(x, y) {
  const own = document.createElement("canvas");
  own.width = canvas.width;
  own.height = canvas.height;
  const copy = own.getContext("2d");
  copy.drawImage(shown, 0, 0);
  const levels = copy.getImageData(Math.floor(x), Math.floor(y), 1, 1).data;
  const colour = "#" + [...levels.slice(0, 3)].map((one) => one.toString(16).padStart(2, "0")).join("");
  if (tool === "swap") {
    field("swap", "source").value = colour;
    preview();
  } else field("paint", "colour").value = colour;
}

function stroke(points) {
  const step = { tool: tool === "erase" ? "erase" : "paint", radius: number(tool, "radius"), points };
  if (tool === "paint") Object.assign(step, { colour: value("paint", "colour"), opacity: number("paint", "opacity") / 100 });
  ask("step", { step });
}

// The step that the sliders describe.
function step() {
  if (tool === "recolour") {
    return { tool, hue: number(tool, "hue"), saturation: number(tool, "saturation"), brightness: number(tool, "brightness"), area: value(tool, "area") };
  }
  if (tool === "swap") {
    return { tool, source: value(tool, "source"), target: value(tool, "target"), tolerance: number(tool, "tolerance"), area: value(tool, "area") };
  }
  if (tool === "erase") return { tool };
  return {
    tool, picture: sticker.name, x: tenth(sticker.x + 0.5), y: tenth(sticker.y + 0.5), width: tenth(stickerWidth() + 0.5), angle: number(tool, "angle"),
    blend: value(tool, "blend"), opacity: number(tool, "opacity") / 100,
  };
}

function preview() {
  clearTimeout(previewing);
  previewing = setTimeout(() => ask("preview", { step: step() }), 120);
}

async function apply(name) {
  clearTimeout(previewing);
  if (name === "copy") return ask("copy", { number: number("copy", "number"), edited: field("copy", "edited").checked });
  if (name === "result" || name === "carry") return ask(name, {});
  if (name === "instruct") {
    const [file] = options("instruct").querySelector("input[type=file]").files;
    const reference = file ? (await upload(file)).path : "";
    return ask("instruct", {
      text: value("instruct", "text"), candidates: number("instruct", "candidates"),
      seed: number("instruct", "seed"), reference,
    });
  }
  if (name === "place" && !(sticker && sticker.name)) return tell(words.choose_picture, true);
  ask("step", { step: step() });
  if (name === "recolour") for (const key of ["hue", "saturation", "brightness"]) field(name, key).value = 0;
  if (name === "place") {
    sticker = null;
    options("place").querySelector("input[type=file]").value = "";
  }
}

async function choosePicture(file) {
  if (!file || !state) return;
  const image = new Image();
  image.onload = () => {
    const start = Math.min(canvas.width / 3, image.naturalWidth);
    const [, lines] = state.region[0] || [0, [[0, 0, canvas.width, canvas.height]]];
    const across = lines[0].filter((_, i) => i % 2 === 0), down = lines[0].filter((_, i) => i % 2);
    const middle = (all) => (Math.min(...all) + Math.max(...all)) / 2;
    sticker = { image, start, x: middle(across), y: middle(down) };
    field("place", "width").value = 100;
    draw();
    upload(file).then(({ path }) => ask("picture", { path }), (error) => tell(`${error.message || error}`, true));
  };
  image.onerror = () => tell(`${file.name} ${words.no_picture}`, true);
  image.src = URL.createObjectURL(file);
}

for (const button of all("[data-tool]")) {
  button.onclick = () => {
    tool = button.dataset.tool;
    clearTimeout(previewing);           // of the tool that was
    if (state) ask("look", {});
    controls();
  };
}
for (const button of all("[data-apply]")) button.onclick = () => apply(button.dataset.apply);
for (const button of all("[data-action]")) button.onclick = () => ask(button.dataset.action, {});
for (const name of ["recolour", "swap"]) options(name).addEventListener("input", preview);
for (const name of ["place", "paint", "restore", "erase"]) options(name).addEventListener("input", draw);
options("place").querySelector("input[type=file]").addEventListener("change", (event) => choosePicture(event.target.files[0]));
find(".stage").addEventListener("dragover", (event) => event.preventDefault());
find(".stage").addEventListener("drop", (event) => {
  event.preventDefault();
  tool = "place";
  controls();
  choosePicture(event.dataTransfer.files[0]);
});
const compare = (isOn) => () => { comparing = isOn; draw(); };
find("[data-help]").onclick = help;
find("[data-before]").addEventListener("pointerdown", compare(true));
for (const name of ["pointerup", "pointerleave"]) find("[data-before]").addEventListener(name, compare(false));
find(".viewer").addEventListener("keydown", (event) => {
  const sizes = ["paint", "restore", "erase"].includes(tool) && event.target.type !== "text";
  if (sizes && (event.key === "[" || event.key === "]")) {
    const size = number(tool, "radius");
    field(tool, "radius").value = event.key === "]" ? Math.max(size + 1, size * 1.2) : Math.min(size - 1, size / 1.2);
    return draw();
  }
  if (event.key === "?" && event.target.type !== "text") return help();
  if (event.key.toLowerCase() !== "z" || !(event.ctrlKey || event.metaKey) || event.target.type === "text") return;
  ask(event.shiftKey ? "redo" : "undo", {});
  event.preventDefault();
});

function opened() {
  if (!props.value || !props.value.token) return;
  find(".empty").textContent = words.loading;
  if (!state || !isSame(state.place, props.value)) {
    drawn = held = state = null;
    tell("");
    clearTimeout(previewing);
  }
  ask("look", {});
}
watch("value", opened);
controls();
opened();
