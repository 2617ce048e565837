// Attention between the words of a caption and the places of a picture, to be pointed at or walked through.
//
//   createView(element, options).update(data)    data as bssan_lib/explorer/view.py makes it; needs no kernel
//   export default { render }                    the same as a Jupyter widget
//
// A "place" is a region (W2R) or an object (O2W). Texts are only ever set as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";
const MOST_OUTLINES = 5; // overlapping boxes that are drawn for one word
const STEP = 1300; // milliseconds a word while playing
const PART = 2 * 1024 * 1024; // bytes of one message of an upload
const DIRECTIONS = {
  w2r: { title: "Words look at regions (W2R)", set: "regions", one: "region" },
  o2w: { title: "Objects read words (O2W)", set: "objects", one: "object" },
};
export function createView(root, options = {}) {
  const state = { direction: "w2r", pinned: null, hovered: null, size: "", timer: null, data: null };
  const part = build(root, options);

  // What is shown: the word or place under the pointer, else the one that was chosen, else the plain picture.
  const shown = () => state.hovered ?? state.pinned;
  const places = () => state.data[DIRECTIONS[state.direction].set];
  const name = () => DIRECTIONS[state.direction].one;
  const weight = (word, place) => (state.direction === "w2r" ? places().weights[word][place] : places().weights[place][word]);
  const top = () => Math.max(1e-9, ...places().weights.map((row) => Math.max(...row)));
  const eligible = () => places().boxes.map((_, p) => p).filter((p) => !state.size || sizeOf(places().boxes[p]) === state.size);

  function update(data) {
    const same = state.data && state.data.words.join(" ") === data.words.join(" ");
    state.data = data;
    state.hovered = null;
    if (!same || state.pinned?.kind !== "word") state.pinned = null;
    if (!same) pause();
    part.image.src = data.picture.uri;
    part.image.alt = data.picture.alt;
    part.stage.style.aspectRatio = `${data.picture.width} / ${data.picture.height}`;
    part.stage.style.maxWidth = `${Math.min(560, (560 * data.picture.width) / data.picture.height)}px`;
    part.bar.style.background = `linear-gradient(to right, ${data.colours.join(", ")}), var(--dark)`;
    part.caption.textContent = data.caption;
    part.words.replaceChildren(...data.words.map(wordButton));
    const unknown = data.unknown.map((t) => `“${data.words[t]}”`);
    part.unknown.textContent = unknown.length ? `Never learned, read as “unknown word”: ${[...new Set(unknown)].join(", ")}.` : "";
    const { joint, w2r, o2w, gate } = data.scores;
    const whole = Math.abs(joint - gate * w2r - (1 - gate) * o2w) < 0.001; // else global vectors score as well
    part.score.replaceChildren(element("b", {}, `Score ${joint.toFixed(3)}`),
      `${whole ? " =" : ", with the global vectors; attention alone:"} ${gate.toFixed(2)} × ${w2r.toFixed(3)} (W2R) + ${(1 - gate).toFixed(2)} × ${o2w.toFixed(3)} (O2W)`);
    setDirection(state.direction);
  }

  function wordButton(word, t) {
    const unknown = state.data.unknown.includes(t);
    const button = element("button", { type: "button", class: unknown ? "word unknown" : "word", "data-word": t,
      "aria-label": unknown ? `${word}, a word never learned` : word },
      element("span", { class: "text" }, word), element("span", { class: "track" }, element("span", { class: "fill" })),
      element("span", { class: "number" }));
    button.addEventListener("pointerenter", (event) => event.pointerType !== "touch" && hover({ kind: "word", index: t }));
    button.addEventListener("pointerleave", () => hover(null));
    button.addEventListener("click", () => { pause(); pin({ kind: "word", index: t }); });
    button.addEventListener("focus", () => { if (button.matches(":focus-visible")) pin({ kind: "word", index: t }); });
    return button;
  }

  function setDirection(direction) {
    state.direction = direction;
    state.hovered = null;
    if (state.pinned?.kind === "place") state.pinned = null;
    for (const radio of part.radios) radio.checked = radio.value === direction;
    const sizes = [...new Set(places().boxes.map(sizeOf))];
    const choice = sizes.length > 1 && sizes.length < 7;
    state.size = "";
    part.sizes.parentElement.hidden = !choice;
    part.sizes.replaceChildren(element("option", { value: "" }, "of any size"),
      ...sizes.map((size) => element("option", { value: size }, `of ${size} of the picture`)));
    part.max.textContent = percent(top());
    part.svg.setAttribute("aria-label", `${places().boxes.length} ${name()}s of the picture; arrow keys move between them`);
    const { width, height } = state.data.picture;
    part.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    part.svg.replaceChildren(...places().boxes.map((box, p) => {
      const rectangle = shape("rect", { x: box[0] * width, y: box[1] * height, width: (box[2] - box[0]) * width,
        height: (box[3] - box[1]) * height, class: "place", "data-place": p, tabindex: -1, role: "button",
        "aria-label": `${name()} ${p + 1}${state.data.placed ? `, ${whereabouts(box)}` : ""}` });
      rectangle.addEventListener("focus", () => { if (rectangle.matches(":focus-visible")) pin({ kind: "place", index: p }); });
      return rectangle;
    }), shape("g", { class: "marks", "aria-hidden": "true" }));
    draw();
  }

  function draw() {
    const now = shown(), data = state.data, highest = top();
    const word = now?.kind === "word" ? now.index : null, place = now?.kind === "place" ? now.index : null;
    const colour = (w) => data.colours[Math.round(Math.min(1, w / highest) * (data.colours.length - 1))];
    const { width, height } = data.picture;
    part.view.classList.toggle("dimmed", word !== null);
    [...part.words.children].forEach((button, t) => {
      const own = place === null ? null : weight(t, place);
      button.classList.toggle("active", t === word);
      button.setAttribute("aria-pressed", t === word);
      button.tabIndex = t === (state.pinned?.kind === "word" ? state.pinned.index : 0) ? 0 : -1;
      button.querySelector(".number").textContent = own === null ? "" : percent(own);
      const fill = button.querySelector(".fill");
      fill.style.width = own === null ? "0" : `${(100 * own) / highest}%`;
      fill.style.background = own === null ? "none" : colour(own);
    });
    const allowed = eligible();
    const first = state.pinned?.kind === "place" ? state.pinned.index : allowed[0];
    for (const rectangle of part.svg.querySelectorAll(".place")) {
      const p = Number(rectangle.dataset.place);
      rectangle.setAttribute("tabindex", p === first ? 0 : -1);
      rectangle.setAttribute("aria-pressed", p === place);
      rectangle.classList.toggle("active", p === place);
      rectangle.style.fill = word !== null && places().tiles ? colour(weight(word, p)) : "transparent";
    }
    const marks = [];
    if (word !== null && !places().tiles) {
      const heaviest = allowed.sort((a, b) => weight(word, b) - weight(word, a)).slice(0, MOST_OUTLINES).reverse();
      heaviest.forEach((p) => marks.push(...outline(places().boxes[p], width, height, colour(weight(word, p)).slice(0, 7),
        (width / 560) * (1 + (3 * weight(word, p)) / highest), percent(weight(word, p)))));
    }
    if (place !== null) marks.push(...outline(places().boxes[place], width, height, "#ffe566", (width / 560) * 3));
    part.svg.querySelector(".marks").replaceChildren(...marks);
    part.status.textContent = sentence(word, place);
    part.clear.disabled = state.pinned === null;
  }

  function sentence(word, place) {
    const data = state.data, one = name();
    if (word === null && place === null) {
      return `Point at a word, or at the picture. With the keyboard: Tab to the words or the picture, arrow keys, Space plays.`;
    }
    if (word !== null) {
      const order = eligible().sort((a, b) => weight(word, b) - weight(word, a)).slice(0, 3);
      const list = order.map((p) => `${one} ${p + 1}${data.placed ? ` (${whereabouts(places().boxes[p])})` : ""} ${percent(weight(word, p))}`).join(", ");
      return state.direction === "w2r"
        ? `“${data.words[word]}” shares its attention among all ${places().boxes.length} regions; most goes to ${list}.`
        : `Of all objects, these give “${data.words[word]}” the largest share of what they read: ${list}.`;
    }
    const order = data.words.map((_, t) => t).sort((a, b) => weight(b, place) - weight(a, place)).slice(0, 3);
    const list = order.map((t) => `“${data.words[t]}” ${percent(weight(t, place))}`).join(", ");
    const where = data.placed ? ` (${whereabouts(places().boxes[place])})` : "";
    return state.direction === "w2r"
      ? `Region ${place + 1}${where} gets these shares of the words' attention: ${list}. Each word has 100% to give, to all regions.`
      : `Object ${place + 1}${where} reads ${list}. Its shares sum to 100% over the words.`;
  }

  function hover(target) {
    if (state.hovered?.kind === target?.kind && state.hovered?.index === target?.index) return;
    state.hovered = target;
    draw();
  }
  function pin(target) { state.hovered = null; state.pinned = target; draw(); }
  function step(by) {
    const count = state.data.words.length, at = state.pinned?.kind === "word" ? state.pinned.index : by > 0 ? -1 : 0;
    pin({ kind: "word", index: (at + by + count) % count });
  }
  function pause() {
    clearInterval(state.timer);
    state.timer = null;
    part.play.textContent = "Play";
  }
  function play() {
    if (state.timer) return pause();
    part.play.textContent = "Pause";
    step(1);
    state.timer = setInterval(() => (root.isConnected ? step(1) : pause()), STEP);
  }

  // The smallest box under the pointer counts, of equally small ones the one whose centre is nearest.
  function placeAt(event) {
    const frame = part.svg.getBoundingClientRect();
    const x = (event.clientX - frame.left) / frame.width, y = (event.clientY - frame.top) / frame.height;
    const rank = (p) => { const b = places().boxes[p];
      return [Math.round(1e3 * (b[2] - b[0]) * (b[3] - b[1])), Math.hypot((b[0] + b[2]) / 2 - x, (b[1] + b[3]) / 2 - y)]; };
    const under = eligible().filter((p) => { const b = places().boxes[p]; return b[0] <= x && x <= b[2] && b[1] <= y && y <= b[3]; });
    under.sort((a, b) => rank(a)[0] - rank(b)[0] || rank(a)[1] - rank(b)[1]);
    return under.length ? { kind: "place", index: under[0] } : null;
  }
  part.svg.addEventListener("pointermove", (event) => event.pointerType !== "touch" && hover(placeAt(event)));
  part.svg.addEventListener("pointerleave", () => hover(null));
  part.svg.addEventListener("click", (event) => { pause(); pin(placeAt(event)); });

  function moveInPicture(key, from) {
    const centre = (p) => { const b = places().boxes[p]; return [(b[0] + b[2]) / 2, (b[1] + b[3]) / 2]; };
    const [x, y] = centre(from), along = key === "ArrowLeft" || key === "ArrowRight" ? 0 : 1;
    const sign = key === "ArrowRight" || key === "ArrowDown" ? 1 : -1;
    const cost = (p) => { const d = [centre(p)[0] - x, centre(p)[1] - y]; return sign * d[along] > 1e-6 ? Math.abs(d[along]) + 3 * Math.abs(d[1 - along]) : Infinity; };
    const next = eligible().reduce((best, p) => (cost(p) < cost(best) ? p : best), from);
    return cost(next) < Infinity ? next : from;
  }
  part.view.addEventListener("keydown", (event) => {
    const target = event.target, isPlace = target.classList.contains("place"), isWord = target.classList.contains("word");
    if (!isPlace && !isWord && event.key !== "Escape") return;
    const focus = (what, index) => { pause(); pin({ kind: what, index }); part.view.querySelector(`[data-${what}="${index}"]`).focus(); };
    const words = state.data.words.length, t = Number(target.dataset.word), p = Number(target.dataset.place);
    if (event.key === " ") play();
    else if (event.key === "Escape") { pause(); pin(null); }
    else if (isWord && event.key === "ArrowRight") focus("word", (t + 1) % words);
    else if (isWord && event.key === "ArrowLeft") focus("word", (t + words - 1) % words);
    else if (isWord && event.key === "Home") focus("word", 0);
    else if (isWord && event.key === "End") focus("word", words - 1);
    else if (isPlace && event.key.startsWith("Arrow")) focus("place", moveInPicture(event.key, p));
    else if (isPlace && event.key === "Enter") pin({ kind: "place", index: p });
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  part.play.addEventListener("click", play);
  part.back.addEventListener("click", () => { pause(); step(-1); });
  part.next.addEventListener("click", () => { pause(); step(1); });
  part.clear.addEventListener("click", () => { pause(); pin(null); });
  for (const radio of part.radios) {
    radio.addEventListener("change", () => { setDirection(radio.value); options.onDirection?.(radio.value); });
  }
  part.sizes.addEventListener("change", () => { state.size = part.sizes.value; if (state.pinned?.kind === "place") state.pinned = null; draw(); });

  function showNeighbours(found) {
    const captions = (found.captions ?? []).map((one, i) => {
      const button = element("button", { type: "button" }, element("span", { class: "score" }, one.score.toFixed(3)),
        one.own ? element("b", { title: "a caption of this picture" }, "✓ ") : "", one.caption);
      button.addEventListener("click", () => options.onChoose?.("caption", i));
      return element("li", {}, button);
    });
    const pictures = (found.pictures ?? []).map((one, i) => {
      const highest = Math.max(1e-9, ...one.weights);
      const drawing = shape("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
      one.weights.forEach((w, p) => {
        const [x1, y1, x2, y2] = one.boxes[p], colour = state.data.colours[Math.round((w / highest) * (state.data.colours.length - 1))];
        const look = one.tiles ? { fill: colour } : { fill: "none", stroke: colour, "stroke-width": (0.03 * w) / highest };
        drawing.append(shape("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, ...look }));
      });
      const image = element("img", { alt: "" });
      image.src = one.uri;
      const button = element("button", { type: "button", "aria-label": `${one.label}, score ${one.score.toFixed(3)}` },
        element("span", { class: "thumb" }, image, drawing), element("span", {}, one.score.toFixed(3) + (one.own ? " · shown" : "")));
      button.addEventListener("click", () => options.onChoose?.("picture", i));
      return element("li", {}, button);
    });
    part.neighbours.hidden = !captions.length && !pictures.length;
    part.captions.replaceChildren(...captions);
    part.pictures.replaceChildren(...pictures);
    part.searched.textContent = found.note ?? "";
  }

  return { update, showNeighbours, setMessage: (text) => { part.message.textContent = text; part.message.hidden = !text; },
    setDirection: (direction) => state.data && direction !== state.direction && setDirection(direction), pause };
}

function build(root, options) {
  const button = (text, label) => element("button", { type: "button", "aria-label": label }, text);
  const part = { play: element("button", { type: "button", class: "play" }, "Play"), back: button("‹", "Previous word"),
    next: button("›", "Next word"), clear: element("button", { type: "button" }, "Plain picture"),
    sizes: element("select", {}), words: element("div", { class: "words", role: "group", "aria-label": "Words of the caption; arrow keys move, Space plays" }),
    caption: element("p", { class: "caption" }), image: element("img", {}), svg: shape("svg", { role: "group" }),
    bar: element("span", { class: "bar" }), max: element("span", {}), status: element("p", { class: "status", "aria-live": "polite" }),
    unknown: element("p", { class: "note" }), score: element("p", { class: "result" }),
    message: element("p", { class: "message", role: "alert" }), captions: element("ol", { class: "captions" }),
    pictures: element("ol", { class: "pictures" }), searched: element("p", { class: "note" }) };
  const group = `bssan-${Math.random().toString(36).slice(2)}`; // every widget on a page runs a copy of this file
  part.radios = Object.keys(DIRECTIONS).map((value) => element("input", { type: "radio", name: group, value }));
  part.message.hidden = true;
  part.stage = element("div", { class: "stage" }, part.image, part.svg);
  const upload = options.onUpload ? uploader(part, options.onUpload) : "";
  part.neighbours = element("div", { class: "neighbours" },
    element("section", {}, element("h4", {}, "Captions nearest to this picture"), part.captions),
    element("section", {}, element("h4", {}, "Pictures nearest to this caption"), part.pictures), part.searched);
  part.neighbours.hidden = true;
  part.view = element("div", { class: "bssan-view", role: "group", "aria-label": "Attention between a caption and a picture",
    "data-lm-suppress-shortcuts": "true" },
    element("fieldset", {}, element("legend", {}, "Direction"),
      ...part.radios.map((radio) => element("label", {}, radio, DIRECTIONS[radio.value].title))),
    part.caption, part.words,
    element("div", { class: "controls" }, part.play, part.back, part.next, part.clear,
      element("label", {}, "objects ", part.sizes), upload),
    part.message,
    element("div", { class: "body" }, element("div", { class: "left" }, part.stage,
      element("p", { class: "scale" }, "0%", part.bar, part.max, element("span", { class: "what" }, "share of attention"))),
      element("div", { class: "right" }, part.status, part.unknown, part.score)),
    part.neighbours);
  root.replaceChildren(part.view);
  return part;
}

function uploader(part, onUpload) {
  const input = element("input", { type: "file", accept: "image/*", "aria-label": "Open a photograph of your own" });
  const take = (file) => file && onUpload(file);
  input.addEventListener("change", () => { take(input.files[0]); input.value = ""; });
  part.stage.addEventListener("dragover", (event) => event.preventDefault());
  part.stage.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
  return element("label", { class: "upload" }, "Your photograph…", input);
}

function outline(box, width, height, colour, thick, text) {
  const [x1, y1, x2, y2] = [box[0] * width, box[1] * height, box[2] * width, box[3] * height];
  const frame = { x: x1 + thick / 2, y: y1 + thick / 2, width: Math.max(1, x2 - x1 - thick), height: Math.max(1, y2 - y1 - thick), fill: "none" };
  const marks = [shape("rect", { ...frame, stroke: "#000", "stroke-width": thick + width / 350 }), shape("rect", { ...frame, stroke: colour, "stroke-width": thick })];
  if (text) {
    const size = width / 38, label = shape("text", { x: x1 + size * 0.4, y: y1 + size * 1.3, "font-size": size, fill: "#fff", stroke: "#000",
      "stroke-width": size / 5, "paint-order": "stroke" });
    label.textContent = text;
    marks.push(label);
  }
  return marks;
}

function whereabouts(box) {
  const x = (box[0] + box[2]) / 2, y = (box[1] + box[3]) / 2;
  const across = x < 0.36 ? "left" : x > 0.64 ? "right" : "", down = y < 0.36 ? "top" : y > 0.64 ? "bottom" : "";
  return [down, across].filter(Boolean).join(" ") || "middle";
}
const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`;
const sizeOf = (box) => `${Math.round(100 * (box[2] - box[0]))}% × ${Math.round(100 * (box[3] - box[1]))}%`;

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
const element = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const shape = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function render({ model, el }) {
  const set = (key, value) => { model.set(key, value); model.save_changes(); };
  const send = async (file) => {
    const limit = model.get("largest_upload");
    if (file.size > limit) return set("message", `${file.name}: ${(file.size / 1e6).toFixed(1)} MB; a picture may have at most ${limit / 1e6} MB`);
    set("message", `Reading ${file.name} …`); // told to the kernel as well, so that whatever it says next is news
    const parts = Math.max(1, Math.ceil(file.size / PART));
    for (let i = 0; i < parts; i++) {
      const bytes = await file.slice(i * PART, (i + 1) * PART).arrayBuffer();
      model.send({ kind: "upload", name: file.name, part: i, parts }, undefined, [bytes]);
    }
  };
  let choices = 0;
  const view = createView(el, {
    onUpload: model.get("uploads") ? send : undefined,
    onDirection: (direction) => set("direction", direction),
    onChoose: (kind, index) => set("chosen", { kind, index, count: ++choices }),
  });
  const listeners = {
    "change:data": () => view.update(model.get("data")),
    "change:neighbours": () => view.showNeighbours(model.get("neighbours")),
    "change:message": () => view.setMessage(model.get("message")),
    "change:direction": () => view.setDirection(model.get("direction")),
    "msg:custom": (message, buffers) => {
      if (message.kind !== "file") return;
      const link = element("a", { download: message.name });
      link.href = URL.createObjectURL(new Blob(buffers, { type: message.type }));
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    },
  };
  view.update(model.get("data"));
  view.setDirection(model.get("direction"));
  view.showNeighbours(model.get("neighbours"));
  view.setMessage(model.get("message"));
  for (const [event, listener] of Object.entries(listeners)) model.on(event, listener);
  return () => {
    view.pause();
    for (const [event, listener] of Object.entries(listeners)) model.off(event, listener);
  };
}

export default { render };
