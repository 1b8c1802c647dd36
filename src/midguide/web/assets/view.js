// Values are numbers of 8 or 16 bits between `low` and `high` of their plane, one plane after the other.
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const number = (x) => Math.abs(x) >= 1e4 || (x && Math.abs(x) < 1e-3) ? x.toExponential(2) : String(+x.toPrecision(3));

const bytes = bytesOf(data.values);
const planes = {};
for (const plane of data.planes) {
  const size = plane.shape.reduce((a, b) => a * b, 1);
  const raw = plane.bits === 8 ? bytes.subarray(plane.start, plane.start + size) : new Uint16Array(bytes.slice(plane.start, plane.start + 2 * size).buffer);
  const scale = (plane.high - plane.low) / (2 ** plane.bits - 1);
  planes[plane.name] = { ...plane, size, at: (i) => plane.low + scale * raw[i] };
}
const draws = data.planes.filter((p) => p.name.startsWith("draw ")).map((p) => p.name);
const kinds = data.planes.map((p) => p.name).filter((name) => !name.startsWith("draw ") && name !== "measured");
const state = { shown: draws[0], slice: 0, row: 0, column: 0, truth: true };
const frames = data.body === "frames";
const [, HEIGHT, WIDTH] = frames ? planes[draws[0]].shape : [0, planes[draws[0]].shape[0], planes[draws[0]].shape[1]];
state.row = frames ? HEIGHT >> 1 : 0; state.column = WIDTH >> 1;

function heat(u) { // dark violet, red, pale yellow
  const stops = [[4, 3, 20], [114, 31, 129], [205, 64, 113], [253, 159, 108], [252, 253, 191]];
  const x = Math.max(0, Math.min(0.9999, u)) * 4, i = Math.floor(x), w = x - i;
  return stops[i].map((c, k) => c + w * (stops[i + 1][k] - c));
}

function paint(canvas, name, slice) {
  const plane = planes[name], [count, height, width, channels] = plane.shape;
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  const first = Math.min(slice, count - 1) * height * width * channels;
  const [low, high] = name === "std" ? [0, plane.high || 1] : name === "measurement" ? [plane.low, plane.high] : data.range;
  for (let i = 0; i < height * width; i++) {
    let rgb = Array.from({ length: channels }, (_, k) => (plane.at(first + i * channels + k) - low) / ((high - low) || 1));
    if (name === "std") rgb = heat(Math.sqrt(rgb.reduce((a, b) => a + b * b, 0) / channels));
    else { rgb = rgb.map((u) => 255 * u); if (channels !== 3) rgb = Array(3).fill(rgb.reduce((a, b) => a + b, 0) / channels); }
    if (name === "measurement" && planes.measured && !planes.measured.at(first / channels + i)) rgb = [128, 140, 160];
    image.data.set([...rgb, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
}

function valueAt(name) { // of the pixel at the pointer, averaged over channels
  const plane = planes[name];
  if (!frames) return plane.at(state.row * WIDTH + state.column);
  const channels = plane.shape[3], first = ((state.slice * HEIGHT + state.row) * WIDTH + state.column) * channels;
  let sum = 0;
  for (let k = 0; k < channels; k++) sum += plane.at(first + k);
  return sum / channels;
}

const ROW = 120, LEFT = 46;
function plotRows(canvas) {
  const dense = WIDTH > 64, rows = HEIGHT, ratio = window.devicePixelRatio || 1, width = canvas.clientWidth || 600;
  canvas.width = width * ratio; canvas.height = (rows * ROW + 24) * ratio; canvas.style.height = `${rows * ROW + 24}px`;
  const c = canvas.getContext("2d"); c.scale(ratio, ratio); c.font = "12px system-ui, sans-serif";
  const x = (i) => LEFT + (width - LEFT - 6) * (WIDTH > 1 ? i / (WIDTH - 1) : 0.5);
  for (let r = 0; r < rows; r++) {
    const at = (name, i) => planes[name].at(r * WIDTH + i), shown = ["5 %", "95 %", state.shown, ...(planes.truth ? ["truth"] : [])];
    let low = Infinity, high = -Infinity;
    for (const name of shown) for (let i = 0; i < WIDTH; i++) { low = Math.min(low, at(name, i)); high = Math.max(high, at(name, i)); }
    const y = (v) => r * ROW + ROW - 12 - (ROW - 24) * (v - low) / ((high - low) || 1);
    if (planes.measured) { c.fillStyle = color("--hidden"); for (let i = 0; i < WIDTH; i++) if (!planes.measured.at(r * WIDTH + i)) c.fillRect(x(i) - 1, r * ROW + 4, x(1) - x(0) + 2, ROW - 8); }
    c.fillStyle = c.strokeStyle = color("--band");
    c.beginPath();
    if (dense) { for (let i = 0; i < WIDTH; i++) c.lineTo(x(i), y(at("5 %", i))); for (let i = WIDTH - 1; i >= 0; i--) c.lineTo(x(i), y(at("95 %", i))); c.fill(); }
    else for (let i = 0; i < WIDTH; i++) c.fillRect(x(i) - 3, y(at("95 %", i)), 6, y(at("5 %", i)) - y(at("95 %", i)));
    const draw = (name, ink, thick) => {
      c.strokeStyle = c.fillStyle = ink; c.lineWidth = thick; c.beginPath();
      for (let i = 0; i < WIDTH; i++) if (dense) c.lineTo(x(i), y(at(name, i))); else c.fillRect(x(i) - 5, y(at(name, i)) - 1, 10, thick + 0.5);
      c.stroke();
    };
    draw("median", color("--accent"), 1.2);
    if (planes.truth && state.truth) draw("truth", color("--ink"), 1);
    if (state.shown !== "median" && state.shown !== "truth") draw(state.shown, color("--warm"), 1.2);
    c.fillStyle = color("--ink"); c.fillText(data.labels[r] || "", 2, r * ROW + 16);
    c.fillStyle = color("--soft"); c.fillText(number(high), 2, r * ROW + 34); c.fillText(number(low), 2, r * ROW + ROW - 12);
    if (r === state.row) { c.strokeStyle = color("--warm"); c.lineWidth = 1; c.strokeRect(x(state.column) - 2, r * ROW + 3, 4, ROW - 6); }
  }
  const key = [["90 % band", "--band"], ["median", "--accent"], ...(planes.truth && state.truth ? [["truth", "--ink"]] : []), [state.shown, "--warm"]];
  let left = LEFT;
  for (const [text, ink] of key) { c.fillStyle = color(ink); c.fillRect(left, rows * ROW + 8, 14, 6); c.fillStyle = color("--ink"); c.fillText(text, left + 18, rows * ROW + 16); left += 34 + c.measureText(text).width; }
}

function histogram() {
  const values = draws.map(valueAt), weights = data.weights || draws.map(() => 1 / draws.length);
  const marks = [["median", "--accent"], ...(planes.truth ? [["truth", "--warm"]] : [])].map(([name, ink]) => [name, valueAt(name), ink]);
  let low = Math.min(...values, ...marks.map((m) => m[1])), high = Math.max(...values, ...marks.map((m) => m[1]));
  if (high - low < 1e-9) { low -= 0.5; high += 0.5; }
  const bins = Math.max(6, Math.min(24, Math.ceil(2 * Math.sqrt(values.length)))), counts = Array(bins).fill(0);
  values.forEach((v, i) => { counts[Math.min(bins - 1, Math.floor(bins * (v - low) / (high - low)))] += weights[i]; });
  const canvas = $("histogram"), c = canvas.getContext("2d"), most = Math.max(...counts), W = canvas.width, H = canvas.height;
  c.clearRect(0, 0, W, H); c.font = "15px system-ui, sans-serif";
  const x = (v) => 12 + (W - 24) * (v - low) / (high - low);
  c.fillStyle = color("--band");
  counts.forEach((n, i) => c.fillRect(12 + (W - 24) * i / bins, H - 26 - (H - 60) * n / most, (W - 24) / bins - 1, (H - 60) * n / most));
  marks.forEach(([name, value, ink], i) => { c.fillStyle = color(ink); c.fillRect(x(value) - 1, 34, 3, H - 60); c.fillText(name, 12 + 90 * i, 20); });
  c.fillStyle = color("--soft"); c.fillText(number(low), 12, H - 6); c.textAlign = "right"; c.fillText(number(high), W - 12, H - 6); c.textAlign = "left";
  const place = frames ? `row ${state.row}, column ${state.column}` : `${data.labels[state.row] || ""} ${data.rate ? `${number(state.column / data.rate)} ${data.unit_x}` : `entry ${state.column}`}`;
  $("where").textContent = `At the pointer: ${place.trim()}`;
  const said = ["mean", "std", "5 %", "median", "95 %", ...(planes.truth ? ["truth"] : [])];
  $("values").textContent = said.map((name) => `${name} ${number(valueAt(name))}`).join(", ") + (data.unit ? ` ${data.unit}` : "") + (frames && planes[draws[0]].shape[3] > 1 ? " (mean of the channels)" : "");
}

function show() {
  const canvas = $("view");
  if (frames) { canvas.className = "pixels"; paint(canvas, state.shown, state.slice); } else plotRows(canvas);
  canvas.setAttribute("aria-label", `${state.shown} of ${data.title}`);
  for (const button of document.querySelectorAll("#bar button[data-name]")) button.setAttribute("aria-pressed", String(button.dataset.name === state.shown));
  $("counter").textContent = state.shown.startsWith("draw ") ? `${state.shown} of ${draws.length}` : state.shown;
  document.querySelectorAll("#strip canvas").forEach((each, i) => { each.className = `pixels ${draws[i] === state.shown ? "on" : ""}`; });
  histogram();
}
const choose = (name) => { if (planes[name]) { state.shown = name; show(); } };
const flip = (by) => { const now = draws.indexOf(state.shown); choose(draws[(now < 0 ? 0 : now + by + draws.length) % draws.length]); };
function truth() {
  if (!planes.truth) return;
  if (!frames) { state.truth = !state.truth; show(); return; }
  if (state.shown === "truth") choose(state.before || draws[0]); else { state.before = state.shown; choose("truth"); }
}
function move(dr, dc) { state.row = Math.max(0, Math.min(HEIGHT - 1, state.row + dr)); state.column = Math.max(0, Math.min(WIDTH - 1, state.column + dc)); if (frames) histogram(); else show(); }
function point(event) {
  const canvas = $("view"), box = canvas.getBoundingClientRect();
  const u = (event.clientX - box.left) / box.width, v = (event.clientY - box.top) / box.height;
  const row = frames ? Math.floor(v * HEIGHT) : Math.floor((event.clientY - box.top) / ROW);
  const column = frames ? Math.floor(u * WIDTH) : Math.round((WIDTH - 1) * (event.clientX - box.left - LEFT) / (box.width - LEFT - 6));
  move(row - state.row, column - state.column);
}

function build() {
  const bar = $("bar"), button = (text, label, act) => { const b = make("button", text, bar); b.type = "button"; if (label) b.setAttribute("aria-label", label); b.onclick = act; return b; };
  button("◀", "previous draw", () => flip(-1)); make("output", "", bar).id = "counter"; button("▶", "next draw", () => flip(1));
  for (const name of kinds) { const b = button(name, "", () => name === "truth" && !frames ? truth() : choose(name)); b.dataset.name = name; }
  if (data.slices > 1) { $("slices").hidden = false; const range = $("slice"); range.max = data.slices - 1; state.slice = data.slices >> 1; range.value = state.slice; $("place").textContent = state.slice; range.oninput = () => { state.slice = +range.value; $("place").textContent = range.value; show(); }; }
  if (frames) draws.slice(0, 24).forEach((name) => { const small = make("canvas", "", $("strip")); small.setAttribute("aria-hidden", "true"); small.onclick = () => choose(name); paint(small, name, state.slice); });
  $("about").textContent = data.about;
  for (const [name, value] of Object.entries(data.facts)) { const row = make("tr", "", $("facts")); make("th", name, row).scope = "row"; make("td", value, row); }
  if (data.verdict.length) judge(data.verdict, $("verdict"));
  else say("p", "Not judged: the problem is not stored with the draws. `samples.check(problem)` judges them.", $("verdict"));
  const view = $("view"); view.onpointermove = point; view.onpointerdown = point;
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
    const arrows = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (arrows[event.key] && event.target === view) { move(...arrows[event.key]); event.preventDefault(); return; }
    const keys = { n: () => flip(1), p: () => flip(-1), ArrowRight: () => flip(1), ArrowLeft: () => flip(-1), m: () => choose("mean"), s: () => choose("std"), q: () => choose("median"), t: truth, y: () => choose("measurement") };
    if (keys[event.key]) keys[event.key]();
  });
  addEventListener("resize", () => { if (!frames) show(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
}
build();
show();
