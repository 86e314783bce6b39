"use strict";
// Reads the daemon's own interface and draws it. Every text goes in as a text node, never as markup: names, steps and
// messages are whatever somebody chose. Lists are cut, so that what is drawn does not grow with what there is.

const IMAGES = 60, ROWS = 12, EVENTS = 25, KEPT = 300, CELL = 240;
const BUSY_MS = 2000, IDLE_MS = 10000, STALE_MS = 60000, POLL_S = 25, GIVE_UP_MS = 40000;
const MIB = 1 << 20;

const $ = (id) => document.getElementById(id);
const shown = { images: IMAGES, fleet: ROWS, runs: ROWS, activations: ROWS, events: EVENTS };
const facts = { status: null, ready: null, pool: null, fleet: null, listing: null, pins: new Set(), runs: [], events: [] };
const drawn = {};
let token = sessionStorage.getItem("veneer-token") || "";
let filter = "", going = null, stale = true, listed = 0, missed = 0, daemon = "";

class Unasked extends Error {}

/// An element with a class, children (text where they are strings) and attributes.
function make(tag, cls, children = [], attributes = {}) {
  const element = document.createElement(tag);
  if (cls) element.className = cls;
  element.append(...[].concat(children));
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// What would turn text around or hide in it is written out.
const plain = (text) => String(text).replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu,
  (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  for (; bytes >= 1024 && at < units.length - 1; at++) bytes /= 1024;
  return (at === 0 ? bytes : bytes.toFixed(1)) + " " + units[at];
}

function ago(ms) {
  const s = Math.max(0, Math.round((Date.now() - ms) / 1000));
  if (s < 90) return s + " s";
  if (s < 5400) return Math.round(s / 60) + " min";
  return s < 172800 ? Math.round(s / 3600) + " h" : Math.round(s / 86400) + " d";
}

function clock(ms) {
  const at = new Date(ms), two = (n) => String(n).padStart(2, "0");
  const time = [at.getHours(), at.getMinutes(), at.getSeconds()].map(two).join(":");
  const today = at.toDateString() === new Date().toDateString();
  return today ? time : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

const has = (...texts) => !filter || texts.some((text) => String(text).toLowerCase().includes(filter));

// ---- what is asked

async function ask(path, signal, allowed = []) {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(GIVE_UP_MS)]);
  const headers = token ? { Authorization: "Bearer " + token } : {};
  const answer = await fetch(path, { headers, signal: limit, cache: "no-store", credentials: "omit" });
  if (answer.status === 401) throw new Unasked();
  const text = await answer.text();
  if (answer.ok || allowed.includes(answer.status)) return text;
  let why = `${path}: ${answer.status}`;
  try { why = JSON.parse(text).detail || why; } catch { /* not ours: the status has to do */ }
  throw Object.assign(new Error(why), { told: true });
}

const json = async (...args) => JSON.parse(await ask(...args));
const lines = (text) => text.split("\n").filter(Boolean).map((line) => JSON.parse(line));

/// The number of the last event, without reading all of them: whether there is one after a number is monotone.
async function lastEvent(signal) {
  const after = async (seq) => (await ask(`/v1/events?after=${seq}&limit=1`, signal)) !== "";
  let low = 0, high = 1;
  while (await after(high)) { low = high; high *= 4; }
  while (low + 1 < high) {
    const middle = Math.floor((low + high) / 2);
    if (await after(middle)) low = middle; else high = middle;
  }
  return high;
}

async function watch(signal) {
  let seq = facts.events.length ? facts.events[0].seq : Math.max(0, await lastEvent(signal) - KEPT);
  let wait = 0;
  for (;;) {
    const began = Date.now();
    const found = lines(await ask(`/v1/events?after=${seq}&limit=1000&wait=${wait}`, signal));
    if (found.length) {
      seq = found[found.length - 1].seq;
      facts.events = found.reverse().concat(facts.events).slice(0, KEPT);
      stale = true;
      draw();
    } else if (wait && Date.now() - began < 1000) {
      // All places for questions that wait are taken: ask less often.
      await pause(BUSY_MS, signal);
    }
    wait = POLL_S;
    await pause(250, signal);
  }
}

async function look(signal) {
  for (;;) {
    const part = (path, allowed) => json(path, signal, allowed).catch((error) => {
      if (error.told) return { trouble: error.message };
      throw error;
    });
    const [status, ready, pool, runs, host] = await Promise.all([
      part("/v1/status"), part("/readyz", [503]), part("/v1/pool"), part("/v1/runs?status=live&limit=1000"), part("/v1/host"),
    ]);
    // Only a host of a fleet has an id.
    const fleet = host.id ? await part("/v1/fleet") : null;
    const life = status.pid + " " + status.started_ms;
    if (daemon && life !== daemon) { facts.events = []; stale = true; daemon = life; throw new Error("another daemon"); }
    daemon = life;
    Object.assign(facts, { status, ready, pool, fleet, runs: runs.runs || [] });
    if (stale || Date.now() - listed > STALE_MS) {
      stale = false;
      const [listing, usage] = await Promise.all([part("/v1/listing"), part("/v1/usage")]);
      facts.listing = listing;
      facts.pins = new Set((usage.images || []).filter((image) => image.pinned).map((image) => image.image));
      listed = Date.now();
    }
    came();
    draw();
    await pause(facts.runs.length || stale ? BUSY_MS : IDLE_MS, signal);
  }
}

// A tab that comes to be hidden ends this with the rest.
const pause = (ms, signal) => new Promise((done, fail) => {
  const end = () => { clearTimeout(timer); fail(signal.reason); };
  const timer = setTimeout(() => { signal.removeEventListener("abort", end); done(); }, ms);
  signal.addEventListener("abort", end, { once: true });
});

async function go() {
  if (going || document.hidden) return;
  const mine = going = new AbortController();
  try {
    // Whether the token is right is found out by one question, not by five.
    await ask("/v1/status", mine.signal);
    await Promise.all([look(mine.signal), watch(mine.signal)]);
  } catch (error) {
    mine.abort();
    if (going !== mine) return;
    going = null;
    if (error instanceof Unasked) return askToken();
    missed++;
    const s = Math.min(10, 2 ** (missed - 1));
    if (missed > 1) gone(`The daemon does not answer. What is shown is from ${clock(listed || Date.now())}; asking again every ${s} s.`);
    setTimeout(go, s * 1000);
  }
}

function stop() {
  if (going) { const old = going; going = null; old.abort(); }
}

function came() {
  missed = 0;
  document.body.classList.remove("gone");
  $("trouble").hidden = $("ask").hidden = true;
  $("main").hidden = false;
}

function gone(why) {
  document.body.classList.add("gone");
  $("trouble").textContent = why;
  $("trouble").hidden = false;
  $("mode").dataset.mode = "gone";
  $("mode").textContent = "gone";
  delete drawn.head;
}

function askToken() {
  $("wrong").textContent = token ? "That is not the token." : "";
  token = "";
  sessionStorage.removeItem("veneer-token");
  $("main").hidden = $("trouble").hidden = true;
  $("ask").hidden = false;
  $("token").value = "";
  $("token").focus();
}

// ---- what is drawn

/// Draws `id` anew when what it is made of has changed, and leaves the focus where it was.
function part(id, key, build) {
  key = JSON.stringify(key);
  if (drawn[id] === key) return;
  drawn[id] = key;
  const focused = document.activeElement && document.activeElement.dataset.key;
  const inside = $(id).contains(document.activeElement);
  $(id).replaceChildren(...[].concat(build()).filter(Boolean));
  if (inside && focused) {
    const again = [...$(id).querySelectorAll("[data-key]")].find((element) => element.dataset.key === focused);
    if (again) again.focus({ preventScroll: true });
  }
}

function more(list, total, step) {
  const rest = total - shown[list];
  if (rest <= 0) return null;
  const button = make("button", "more", `${rest} more`, { type: "button", "data-key": "more " + list });
  button.addEventListener("click", () => { shown[list] += step; draw(); });
  return button;
}

function table(heads, rows) {
  const head = make("tr", "", heads.map(([text, cls]) => make("th", cls, text, { scope: "col" })));
  const cut = (cell) => typeof cell === "string" && cell.length > CELL
    ? make("span", "", cell.slice(0, CELL) + "\u2026", { title: cell }) : cell;
  const body = rows.map((cells) => make("tr", "", cells.map((cell, at) => make("td", heads[at][1], cut(cell)))));
  return make("table", "", [make("thead", "", head), make("tbody", "", body)]);
}

function bar(part, label, fills = true) {
  const percent = Math.min(100, Math.max(0, part * 100));
  const fill = make("i", "");
  fill.style.width = percent + "%";
  const how = !fills ? "" : percent >= 95 ? " full" : percent >= 80 ? " tight" : "";
  return make("div", "bar" + how, fill, {
    role: "meter", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(percent),
  });
}

const trouble = (what) => make("p", "bad", plain(what.trouble));
const nothing = (text) => make("p", "quiet", filter ? "Nothing of that name." : text);
const count = (id, found, total) => { $(id).textContent = found === total ? String(total) : `${found} of ${total}`; };

function draw() {
  if (!facts.status) return;
  drawHead();
  drawPool();
  drawFleet();
  drawRuns();
  drawImages();
  drawActivations();
  drawEvents();
}

function drawHead() {
  const { mode, why, version, started_ms, stopping } = facts.status;
  const key = JSON.stringify([mode, why, version, stopping, started_ms, ago(started_ms)]);
  if (drawn.head === key) return;
  drawn.head = key;
  $("mode").dataset.mode = stopping ? "drain" : mode;
  $("mode").textContent = (stopping ? "stopping" : mode) + (why ? ": " + plain(why) : "");
  $("build").textContent = `${version}, up ${ago(started_ms)}`;
}

function drawPool() {
  const { pool, ready, listing } = facts;
  part("pool", [pool, ready, listing && [listing.layer_bytes, listing.unshared_bytes]], () => {
    const failed = ((ready && ready.checks) || []).filter((check) => !check.ok);
    const checks = failed.length && make("ul", "checks",
      failed.map((check) => make("li", "", plain(`${check.name}: ${check.reason}`))));
    if (pool.trouble) return [trouble(pool), checks];
    const { mode, data, metadata, transaction_id } = pool.condition;
    const meter = (name, space) => {
      const part = space.total ? space.used / space.total : 0;
      const figures = `${size(space.used)} of ${size(space.total)}`;
      return make("div", "meter", [make("span", "", name), bar(part, `${name}, ${figures}`),
        make("span", "", [make("span", "quiet", figures), make("span", "percent", `${Math.round(part * 100)} %`)])]);
    };
    const meters = [meter("Data", data)];
    if (metadata) meters.push(meter("Metadata", metadata));
    $("pool-n").textContent = `${pool.store.kind} ${plain(pool.store.id)}`;
    const words = [mode === "rw" ? "read and write" : mode.replaceAll("_", " ")];
    if (transaction_id !== null) words.push(`transaction ${transaction_id}`);
    if (listing && !listing.trouble && listing.unshared_bytes) {
      const saved = Math.round(100 * (1 - listing.layer_bytes / listing.unshared_bytes));
      words.push(`${size(listing.layer_bytes)} of layers instead of ${size(listing.unshared_bytes)} without sharing (${saved} % less)`);
    }
    return [make("div", "meters", meters), make("p", "facts", words.join("  \u00b7  ")), checks];
  });
}

/// The document in force, and this host's place in it.
function drawFleet() {
  const { fleet } = facts;
  $("fleet-s").hidden = !fleet;
  if (!fleet) return;
  if (fleet.trouble) return part("fleet", fleet, () => trouble(fleet));
  const lines = ["images", "activations", "remove"].flatMap((kind) => fleet[kind].map((line) => ({ kind, ...line })));
  const found = lines.filter((line) => has(line.name, line.image, line.state, line.why));
  $("fleet-n").textContent = fleet.serial === null ? "no document yet" : `document ${fleet.serial}`;
  part("fleet", [fleet, filter, shown.fleet], () => {
    const place = [fleet.fleet, fleet.class && "class " + fleet.class, "host " + fleet.host, fleet.site && "site " + fleet.site];
    const asked = fleet.age_s === null ? "not yet found to be the newest" : `found to be the newest ${ago(Date.now() - 1000 * fleet.age_s)} ago`;
    const words = [...place, asked, fleet.paused && "paused", fleet.hold && "on hold"].filter(Boolean).map(plain);
    const about = make("p", "facts", words.join("  \u00b7  "));
    const refused = fleet.refused && make("p", "bad", plain(fleet.refused));
    if (!found.length) return [about, refused, nothing("The document names nothing for this host.")];
    const states = { ready: "good", wanted: "warn", failed: "bad" };
    const rows = found.slice(0, shown.fleet).map((line) => {
      const inside = line.kind === "remove" ? "is to go" : line.in_rollout === null ? "" : line.in_rollout ? "yes" : "not yet";
      const state = make("span", states[line.state] || "quiet", plain(line.state.replaceAll("_", " ")));
      return [plain(line.name), line.image ? short(line.image) : "", inside, state, line.why ? plain(line.why) : ""];
    });
    return [about, refused, table([["Name", "w-m"], ["Image", ""], ["In the roll-out", "w-s"], ["State", "w-s"], ["Why no more is done now", ""]], rows),
      more("fleet", found.length, 50)];
  });
}

function runState(run) {
  if (run.cancel !== null) return ["being cancelled", "warn"];
  if (run.interrupted) return ["interrupted", "warn"];
  return [run.state, run.state === "running" ? "good" : "quiet"];
}

function drawRuns() {
  const found = facts.runs.filter((run) => has(run.subject, run.verb, run.step));
  count("runs-n", found.length, facts.runs.length);
  const at = found.slice(0, shown.runs);
  part("runs", [at, found.length, filter, shown.runs, Math.floor(Date.now() / 10000)], () => {
    if (!found.length) return nothing("Nothing is under way.");
    const rows = at.map((run) => {
      const [word, cls] = runState(run);
      const step = run.step ? plain(run.step) : run.state === "queued" ? "waits for its turn" : "";
      const [, at, of] = (/^layer (\d{1,4}) of (\d{1,4}):/.exec(run.step) || []).map(Number);
      const progress = at <= of && bar((at - 1) / of, `layer ${at} of ${of}`, false);
      const tries = run.attempt > 1 ? `, begun ${run.attempt} times` : "";
      return [String(run.id), run.verb, plain(run.subject), make("span", cls, word + tries),
        progress ? [make("div", "", step.slice(0, CELL)), progress] : step, ago(run.created_ms)];
    });
    return [table([["Run", "w-n"], ["Verb", "w-s"], ["Of", ""], ["State", "w-s"], ["At, or waits for", ""], ["Since", "w-n num"]], rows),
      more("runs", found.length, 50)];
  });
}

/// Images as trees: a volume has one volume below it, so equal beginnings are one path.
function trees(images) {
  const roots = new Map();
  for (const image of images) {
    let level = roots, node = null;
    for (const layer of image.layers) {
      node = level.get(layer.volume);
      if (!node) level.set(layer.volume, node = { layer, above: new Map(), ends: [] });
      level = node.above;
    }
    if (node) node.ends.push(image);
  }
  return roots;
}

function family(root, least) {
  const cells = [];
  let row = 1, deep = least;
  const place = (node, column) => {
    const first = row;
    deep = Math.max(deep, column);
    for (const image of node.ends) cells.push(nameCell(image, row++));
    for (const above of node.above.values()) place(above, column + 1);
    cells.push(layerCell(node.layer, column, first, row - first));
  };
  place(root, 1);
  const grid = make("div", deep > 9 ? "family many" : "family", cells);
  grid.style.setProperty("--deep", deep);
  return grid;
}

const short = (image) => plain(image.replace(/^s3:\/\//, "").replace(/\/$/, ""));

function nameCell(image, row) {
  const marks = [];
  if (facts.pins.has(image.image)) marks.push("pinned");
  if (image.activations.length) marks.push(`${image.activations.length} active`);
  const label = `${plain(image.image)}, ${image.layers.length} layers${marks.length ? ", " + marks.join(", ") : ""}`;
  const cell = make("button", "", [short(image.image), marks.length ? make("em", "", marks.join(", ")) : ""],
    { type: "button", "data-key": image.image, tabindex: -1, title: plain(image.image), "aria-label": label });
  cell.style.gridRow = row;
  cell.addEventListener("click", () => openImage(image));
  return cell;
}

function layerCell(layer, column, row, rows) {
  const images = layer.shared_with + 1;
  const words = `${plain(layer.key)}: volume ${layer.volume}, ${size(layer.bytes)}` + (images > 1 ? `, shared by ${images} images` : "");
  const cell = make("div", images > 1 ? "layer shared" : "layer", make("span", "", size(layer.bytes)), { title: words, role: "img", "aria-label": words });
  if (images > 1) cell.append(make("span", "times", `\u00d7${images}`));
  cell.style.gridColumn = column + 1;
  cell.style.gridRow = `${row} / span ${rows}`;
  return cell;
}

function drawImages() {
  const { listing } = facts;
  if (!listing) return;
  if (listing.trouble) return part("images", listing, () => trouble(listing));
  const found = listing.images.filter((image) => has(image.image, ...image.activations));
  count("images-n", found.length, listing.images.length);
  const pins = [...facts.pins];
  part("images", [listed, pins.length, filter, shown.images], () => {
    if (!found.length) return nothing("There are none yet: `orchestrate ensure s3://bucket/prefix/` makes one.");
    const all = trees(found);
    // Relatives stay together where the list is cut.
    const order = [];
    const walk = (node) => { order.push(...node.ends); for (const above of node.above.values()) walk(above); };
    for (const root of all.values()) walk(root);
    const cut = trees(order.slice(0, shown.images));
    // One width for all, but where a few are very deep.
    const deepest = Math.max(...order.slice(0, shown.images).map((image) => image.layers.length));
    const grids = [...cut.values()].map((root) => family(root, Math.min(8, deepest)));
    const first = grids.length && grids[0].querySelector("button");
    if (first) first.tabIndex = 0;
    return [...grids, more("images", found.length, 100)];
  });
}

function openImage(image) {
  $("image-h").textContent = plain(image.image);
  const rows = image.layers.map((layer, at) => [String(at + 1), plain(layer.key), make("span", "mono", layer.digest.slice(7, 19)),
    String(layer.volume), size(layer.bytes), size(layer.own_bytes), layer.shared_with ? `${layer.shared_with} more` : "nobody"]);
  const names = image.activations.length ? make("p", "facts", plain("Active as " + image.activations.join(", "))) : "";
  $("image-body").replaceChildren(
    table([["", "w-n"], ["Object", ""], ["sha256", "w-s wide"], ["Volume", "w-n num"], ["Object", "w-s num"], ["In the pool", "w-s num"], ["Shared with", "w-s num"]], rows.reverse()), names);
  $("image").showModal();
}

function drawActivations() {
  const { listing } = facts;
  if (!listing) return;
  if (listing.trouble) return part("activations", listing, () => trouble(listing));
  const labels = (one) => Object.entries(one.labels || {}).map(([key, value]) => `${key}=${value}`);
  const found = listing.activations.filter((one) => has(one.name, one.image, one.state, ...labels(one)));
  count("activations-n", found.length, listing.activations.length);
  part("activations", [listed, filter, shown.activations], () => {
    if (!found.length) return nothing("There are none.");
    const rows = found.slice(0, shown.activations).map((one) => {
      const lost = one.state === "active" && !one.mapped;
      const state = make("span", lost ? "bad" : one.mapped ? "good" : "quiet", lost ? "active, not mapped" : one.state);
      const terms = labels(one);
      if (one.read_only) terms.unshift("read-only");
      if (one.ends_ms) terms.push("until " + new Date(one.ends_ms).toLocaleString());
      return [plain(one.name), short(one.image), state, plain(terms.join(", ")), make("span", "mono", plain(one.path)), size(one.bytes)];
    });
    return [table([["Name", "w-m"], ["Image", ""], ["State", "w-s"], ["Labels and terms", "w-m wide"], ["Device", "wide"], ["Size", "w-s num"]], rows),
      more("activations", found.length, 50)];
  });
}

function drawEvents() {
  const found = facts.events.filter((event) => has(event.subject, event.detail, event.to));
  $("events-n").textContent = filter ? String(found.length) : "";
  const at = found.slice(0, shown.events);
  part("events", [at.length && at[0].seq, found.length, filter, shown.events, new Date().toDateString()], () => {
    if (!found.length) return nothing("Nothing has happened.");
    const rows = at.map((event) => [clock(event.at_ms), plain(event.subject),
      plain(event.from === null && event.to === null ? "" : `${event.from === null ? "" : event.from + " "}\u2192 ${event.to === null ? "gone" : event.to}`),
      plain(event.detail)]);
    return [table([["When", "w-s"], ["What", ""], ["Change", "w-m"], ["More", ""]], rows), more("events", found.length, 50)];
  });
}

// ---- what is typed

function type(text) {
  filter = text.trim().toLowerCase();
  Object.assign(shown, { images: IMAGES, fleet: ROWS, runs: ROWS, activations: ROWS, events: EVENTS });
  draw();
}

function move(from, by) {
  const names = [...$("images").querySelectorAll(".family button")];
  const at = names.indexOf(from);
  const to = by === "first" ? 0 : by === "last" ? names.length - 1 : at + by;
  if (at < 0 || !names[to]) return;
  names[at].tabIndex = -1;
  names[to].tabIndex = 0;
  names[to].focus();
}

let typing = 0;
$("filter").addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(() => type(event.target.value), 80);
});
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  // What no header can carry is no token.
  if (!/^[\x21-\x7e]+$/.test(token)) return askToken();
  sessionStorage.setItem("veneer-token", token);
  go();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("image").open) return;
  const writing = event.target instanceof HTMLInputElement;
  if (event.key === "/" && !writing && !$("main").hidden) {
    event.preventDefault();
    $("filter").focus();
    $("filter").select();
  } else if (event.key === "Escape" && event.target === $("filter")) {
    $("filter").value = "";
    type("");
    $("filter").blur();
  } else if (event.key === "ArrowDown" && event.target === $("filter")) {
    const first = $("images").querySelector(".family button");
    if (first) { event.preventDefault(); first.focus(); }
  } else if (event.target.parentElement && event.target.parentElement.classList.contains("family")) {
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: "first", End: "last" }[event.key];
    if (by !== undefined) { event.preventDefault(); move(event.target, by); }
  }
});
document.addEventListener("visibilitychange", () => (document.hidden ? stop() : go()));
go();
