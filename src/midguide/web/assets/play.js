const { width: W, height: H, channels: C } = data;
const state = { number: 0, pixels: null, mask: new Uint8Array(W * H).fill(1), x: W >> 1, y: H >> 1, timer: 0 };

function paint(canvas, pixels, mask) {
  canvas.width = W; canvas.height = H;
  const context = canvas.getContext("2d"), image = context.createImageData(W, H);
  for (let i = 0; i < W * H; i++) {
    const rgb = [0, 1, 2].map((k) => pixels[i * C + (C === 3 ? k : 0)]);
    image.data.set([...(mask && !mask[i] ? [94, 124, 160] : rgb), 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
}
const byHand = () => $("operator").value === data.operators[0];
const show = () => { if (state.pixels) paint($("picture"), state.pixels, byHand() ? state.mask : null); };

function hide(x, y) {
  const radius = +$("brush").value;
  for (let j = -radius; j <= radius; j++) for (let i = -radius; i <= radius; i++) {
    const u = x + i, v = y + j;
    if (i * i + j * j < (radius + 0.3) ** 2 && u >= 0 && v >= 0 && u < W && v < H) state.mask[v * W + u] = +$("erase").checked;
  }
}
function stroke(x, y) { // without gaps, however fast the pointer
  const [u, v] = state.last || [x, y], parts = Math.max(1, Math.abs(x - u), Math.abs(y - v));
  for (let k = 0; k <= parts; k++) hide(Math.round(u + (x - u) * k / parts), Math.round(v + (y - v) * k / parts));
  state.last = [x, y]; show();
}
function half() { for (let i = 0; i < W * H; i++) state.mask[i] = +(i % W < W / 2); show(); }

async function load(number) { // a picture that the prior itself draws takes seconds
  const said = $("progress").textContent, wait = `${data.prior} draws a picture ...`;
  $("other").disabled = true; $("progress").textContent = wait;
  try {
    const found = await (await fetch(`picture?${number}`)).json();
    if (found.error) { $("progress").textContent = found.error; return; }
    state.number = number; state.pixels = bytesOf(found.pixels); show();
    $("picture").dataset.number = number;
    $("about").textContent = `${found.about} Paint over what is to be hidden: ${data.prior} draws what may be there.`;
    if ($("progress").textContent === wait) $("progress").textContent = said;
  } catch { $("progress").textContent = "The server has stopped."; } finally { $("other").disabled = false; }
}

async function draw(event) {
  event.preventDefault();
  clearTimeout(state.timer); $("draws").replaceChildren(); $("verdict").textContent = "After the draws."; $("progress").textContent = "starting";
  const asked = { picture: state.number, mask: btoa(String.fromCharCode(...state.mask)), operator: $("operator").value, sigma: +$("sigma").value,
    sampler: $("sampler").value, steps: $("steps").value ? +$("steps").value : null, samples: +$("samples").value, seed: +$("seed").value };
  const answer = await (await fetch("draw", { method: "POST", body: JSON.stringify(asked) })).json();
  if (answer.error) { $("progress").textContent = answer.error; return; }
  $("draw").disabled = true; $("stop").disabled = false; watch();
}

async function watch() {
  let told;
  try { told = await (await fetch("state")).json(); } catch { $("progress").textContent = "The server has stopped."; return; }
  const box = $("draws");
  while (box.children.length > told.pictures.length) box.lastChild.remove();
  told.pictures.forEach((text, i) => { const canvas = box.children[i] || make("canvas", "", box); canvas.className = "pixels"; canvas.setAttribute("role", "img"); canvas.setAttribute("aria-label", `draw ${i + 1}`); paint(canvas, bytesOf(text), null); });
  $("progress").replaceChildren();
  say("span", told.error || (told.finished ? `done: ${told.note}` : `step ${told.done} of ${told.total}: ${told.note}`), $("progress"));
  $("command").textContent = told.command;
  if (!told.finished) { state.timer = setTimeout(watch, 250); return; }
  $("draw").disabled = false; $("stop").disabled = true;
  if (told.error) return;
  judge(told.verdict, $("verdict"));
}

data.operators.forEach((name, i) => { make("option", i ? name : "what I paint", $("operator")).value = name; });
for (const name of data.samplers) make("option", name, $("sampler")).value = name;
const canvas = $("picture");
const at = (event) => { const box = canvas.getBoundingClientRect(); stroke(Math.floor(W * (event.clientX - box.left) / box.width), Math.floor(H * (event.clientY - box.top) / box.height)); };
canvas.style.touchAction = "none";
$("brush").max = Math.ceil(W / 5); $("brush").value = Math.max(1, Math.round(W / 14));
canvas.onpointerdown = (event) => { canvas.setPointerCapture(event.pointerId); state.last = null; if (byHand()) at(event); };
canvas.onpointermove = (event) => { if (event.buttons && byHand()) at(event); };
canvas.onkeydown = (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }, by = moves[event.key];
  if (by) { state.x = Math.max(0, Math.min(W - 1, state.x + by[0])); state.y = Math.max(0, Math.min(H - 1, state.y + by[1])); show(); const c = canvas.getContext("2d"); c.fillStyle = "#ff7a3d"; c.fillRect(state.x, state.y, 1, 1); event.preventDefault(); }
  if (event.key === " " && byHand()) { hide(state.x, state.y); show(); event.preventDefault(); }
};
$("other").onclick = () => load(state.number + 1);
$("half").onclick = half;
$("clear").onclick = () => { state.mask.fill(1); show(); };
$("operator").onchange = show;
$("form").onsubmit = draw;
$("stop").onclick = () => fetch("stop", { method: "POST" });
load(0);
