// Attention between the words of a caption and the places of a picture, to be pointed at or walked through.
//
//   createView(element, options).update(data)    data as bssan_lib/explorer/view.py makes it; needs no kernel
//   export default { render }                    the same as a Jupyter widget
//
// A "place" is a region (W2R) or an object (O2W); each direction has a picture of its own. Texts are only ever set as
// text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";
const MOST_OUTLINES = 5; // overlapping boxes that are drawn for one word
const LISTED = 4; // places or words that are named beside the pictures
const STEP = 1300; // milliseconds a word while playing
const PART = 2 * 1024 * 1024; // bytes of one message of an upload
const DIRECTIONS = {
  w2r: { title: "Words attend to regions (W2R)", set: "regions", one: "region", whose: "the word's" },
  o2w: { title: "Objects attend to words (O2W)", set: "objects", one: "object", whose: "the object's" },
};
const BOTH = Object.keys(DIRECTIONS);
const TOUR = [
  "Point at a word. The W2R picture shows the regions that it attends to.",
  "Point at an object in the O2W picture. The bars under the words show its attention.",
  "Type another caption, or change one noun. The score shows how well picture and caption fit.",
];

export function createView(root, options = {}) {
  // word: the chosen word. place: the chosen region or object {kind, index}. hovered: what is under the pointer.
  const state = { word: null, place: null, hovered: null, size: "", timer: null, data: null };
  const part = build(root, options);

  const places = (way) => state.data[DIRECTIONS[way].set];
  const weight = (way, word, place) => (way === "w2r" ? places(way).weights[word][place] : places(way).weights[place][word]);
  const top = (way) => Math.max(1e-9, ...places(way).weights.map((row) => Math.max(...row)));
  const eligible = (way) => places(way).boxes.map((_, p) => p)
    .filter((p) => way === "w2r" || !state.size || sizeOf(places(way).boxes[p]) === state.size);
  const heaviestPlaces = (way, word) => eligible(way).sort((a, b) => weight(way, word, b) - weight(way, word, a));
  const heaviestWords = (way, place) => state.data.words.map((_, t) => t).sort((a, b) => weight(way, b, place) - weight(way, a, place));
  const named = (way, p) => `${DIRECTIONS[way].one} ${p + 1}${state.data.placed ? ` (${whereabouts(places(way).boxes[p])})` : ""}`;
  const quoted = (t) => `“${state.data.words[t]}”`;

  // What a direction's picture shows: its place under the pointer or chosen, else the word, else nothing.
  function shown(way) {
    const now = state.hovered ?? state.place;
    if (now?.kind === DIRECTIONS[way].one) return { word: null, place: now.index };
    return { word: now?.kind === "word" ? now.index : state.word, place: null };
  }

  function update(data) {
    const same = state.data && state.data.words.join(" ") === data.words.join(" ");
    Object.assign(state, { data, hovered: null, place: null });
    if (!same) { pause(); state.word = data.first; }
    for (const way of BOTH) {
      const pane = part.panes[way];
      pane.image.src = data.picture.uri;
      pane.image.alt = data.picture.alt;
      pane.stage.style.aspectRatio = `${data.picture.width} / ${data.picture.height}`;
      pane.stage.style.maxWidth = `${Math.min(560, (560 * data.picture.width) / data.picture.height)}px`;
      pane.bar.style.background = `linear-gradient(to right, ${data.colours.join(", ")}), var(--dark)`;
      pane.max.textContent = percent(top(way));
    }
    part.caption.textContent = data.caption;
    part.words.replaceChildren(...data.words.map(wordButton));
    const unknown = data.unknown.map((t) => `“${data.words[t]}”`);
    part.unknown.textContent = unknown.length ? `Not in the vocabulary, treated as <unk>: ${[...new Set(unknown)].join(", ")}.` : "";
    const sizes = [...new Set(places("o2w").boxes.map(sizeOf))];
    state.size = "";
    part.sizes.parentElement.hidden = sizes.length < 2 || sizes.length > 6;
    part.sizes.replaceChildren(element("option", { value: "" }, "of any size"),
      ...sizes.map((size) => element("option", { value: size }, `of ${size} of the picture`)));
    showScore(data.scores);
    BOTH.forEach(makePlaces);
    draw();
  }

  function showScore({ joint, w2r, o2w, gate }) {
    const whole = Math.abs(joint - gate * w2r - (1 - gate) * o2w) < 0.001; // else global vectors score as well
    const row = (name, share, score) => element("tr", {}, element("th", { scope: "row" }, name),
      element("td", {}, share.toFixed(2)), element("td", {}, `× ${score.toFixed(3)}`), element("td", {}, `= ${(share * score).toFixed(3)}`));
    part.score.replaceChildren(element("p", {}, "S = share × W2R + share × O2W"),
      element("table", {}, row("W2R", gate, w2r), row("O2W", 1 - gate, o2w),
        element("tr", { class: "sum" }, element("th", { scope: "row" }, "Score S"), element("td", {}), element("td", {}), element("td", {}, `${whole ? "=" : ""} ${joint.toFixed(3)}`))),
      element("p", { class: "note" }, `${whole ? "" : "The global vectors are part of S as well. "}W2R is the mean cosine of the words and what they attend to, ` +
        "O2W that of the objects. The shares are the gate of the model and sum to one."));
  }

  function wordButton(word, t) {
    const unknown = state.data.unknown.includes(t);
    const button = element("button", { type: "button", class: unknown ? "word unknown" : "word", "data-word": t,
      "aria-label": unknown ? `${word}, not in the vocabulary` : word },
      element("span", { class: "text" }, word), element("span", { class: "track" }, element("span", { class: "fill" })),
      element("span", { class: "number" }));
    button.addEventListener("pointerenter", (event) => event.pointerType !== "touch" && hover({ kind: "word", index: t }));
    button.addEventListener("pointerleave", () => hover(null));
    button.addEventListener("click", () => { pause(); pin({ kind: "word", index: t }); });
    button.addEventListener("focus", () => { if (button.matches(":focus-visible")) pin({ kind: "word", index: t }); });
    return button;
  }

  function makePlaces(way) {
    const { width, height } = state.data.picture, kind = DIRECTIONS[way].one, { svg } = part.panes[way];
    svg.setAttribute("aria-label", `${places(way).boxes.length} ${kind}s of the picture; arrow keys move between them`);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren(...places(way).boxes.map((box, p) => {
      const rectangle = shape("rect", { x: box[0] * width, y: box[1] * height, width: (box[2] - box[0]) * width,
        height: (box[3] - box[1]) * height, class: "place", "data-place": p, tabindex: -1, role: "button", "aria-label": named(way, p) });
      rectangle.addEventListener("focus", () => { if (rectangle.matches(":focus-visible")) pin({ kind, index: p }); });
      return rectangle;
    }), shape("g", { class: "marks", "aria-hidden": "true" }));
  }

  function draw() {
    BOTH.forEach(drawPane);
    drawWords();
    part.explained.replaceChildren(...BOTH.map(explanation).filter(Boolean));
    part.clear.disabled = state.word === null && state.place === null;
  }

  function drawPane(way) {
    const { word, place } = shown(way), { stage, svg } = part.panes[way], highest = top(way);
    const { width, height } = state.data.picture, boxes = places(way).boxes;
    stage.classList.toggle("dimmed", word !== null);
    const first = state.place?.kind === DIRECTIONS[way].one ? state.place.index : eligible(way)[0];
    for (const rectangle of svg.querySelectorAll(".place")) {
      const p = Number(rectangle.dataset.place);
      rectangle.setAttribute("tabindex", p === first ? 0 : -1);
      rectangle.setAttribute("aria-pressed", p === place);
      rectangle.classList.toggle("active", p === place);
      rectangle.style.fill = word !== null && places(way).tiles ? colour(weight(way, word, p) / highest) : "transparent";
    }
    const marks = [];
    if (word !== null && !places(way).tiles) {
      for (const p of heaviestPlaces(way, word).slice(0, MOST_OUTLINES).reverse()) {
        const share = weight(way, word, p);
        marks.push(...outline(boxes[p], width, height, colour(share / highest).slice(0, 7), (width / 560) * (1 + (3 * share) / highest), percent(share)));
      }
    }
    if (place !== null) marks.push(...outline(boxes[place], width, height, "#ffe566", (width / 560) * 3));
    svg.querySelector(".marks").replaceChildren(...marks);
  }

  // The bars: each word's share of the object, or what each word gives to the region that is pointed at.
  function drawWords() {
    const way = shown("w2r").place !== null ? "w2r" : "o2w", { word, place } = shown(way);
    const from = place ?? (word === null ? null : heaviestPlaces(way, word)[0]);
    [...part.words.children].forEach((button, t) => {
      const own = from === null ? null : weight(way, t, from);
      button.classList.toggle("active", t === shown("w2r").word);
      button.setAttribute("aria-pressed", t === shown("w2r").word);
      button.tabIndex = t === (state.word ?? 0) ? 0 : -1;
      button.querySelector(".number").textContent = own === null ? "" : percent(own);
      const fill = button.querySelector(".fill");
      fill.style.width = own === null ? "0" : `${(100 * own) / top(way)}%`;
      fill.style.background = own === null ? "none" : colour(own / top(way));
    });
    part.bars.textContent = from === null ? "Choose a word, or point at a picture." : way === "w2r"
      ? `Bars: the share of each word's attention that goes to ${named(way, from)}.`
      : `Bars: the attention of ${named(way, from)} to the words, 100% in all.`;
  }

  function explanation(way) {
    const { word, place } = shown(way), { one } = DIRECTIONS[way];
    if (word === null && place === null) return null;
    const rows = word !== null ? heaviestPlaces(way, word).slice(0, LISTED).map((p) => [named(way, p), weight(way, word, p)])
      : heaviestWords(way, place).slice(0, LISTED).map((t) => [quoted(t), weight(way, t, place)]);
    const count = places(way).boxes.length, even = percent(1 / count);
    const [title, note] = word !== null
      ? way === "w2r" ? [`${quoted(word)} attends to`, `Its shares of all ${count} regions sum to 100%; an even share is ${even}.`]
        : [`Objects that attend most to ${quoted(word)}`, "These do not sum to 100%: each object has 100% for all words."]
      : way === "w2r" ? [`Words that attend to ${named(way, place)}`, "These do not sum to 100%: each word has 100% for all regions."]
        : [`${named(way, place)} attends to`, "Its shares sum to 100% over the words."];
    return element("section", { class: one }, element("h4", {}, `${title[0].toUpperCase()}${title.slice(1)}`),
      element("ol", {}, ...rows.map(([name, share]) => element("li", {}, element("span", {}, name), element("b", {}, percent(share))))),
      element("p", { class: "note" }, note));
  }

  const colour = (share) => state.data.colours[Math.round(Math.min(1, share) * (state.data.colours.length - 1))];

  function hover(target) {
    if (state.hovered?.kind === target?.kind && state.hovered?.index === target?.index) return;
    state.hovered = target;
    draw();
  }
  function pin(target) {
    state.hovered = null;
    state.place = target && target.kind !== "word" ? target : null;
    if (target?.kind === "word") state.word = target.index;
    draw();
  }
  function clear() { pause(); state.word = null; pin(null); }
  function step(by) {
    const count = state.data.words.length, at = state.word ?? (by > 0 ? -1 : 0);
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
  function placeAt(way, event) {
    const frame = part.panes[way].svg.getBoundingClientRect(), { boxes } = places(way);
    const x = (event.clientX - frame.left) / frame.width, y = (event.clientY - frame.top) / frame.height;
    const rank = (p) => { const b = boxes[p];
      return [Math.round(1e3 * (b[2] - b[0]) * (b[3] - b[1])), Math.hypot((b[0] + b[2]) / 2 - x, (b[1] + b[3]) / 2 - y)]; };
    const under = eligible(way).filter((p) => { const b = boxes[p]; return b[0] <= x && x <= b[2] && b[1] <= y && y <= b[3]; });
    under.sort((a, b) => rank(a)[0] - rank(b)[0] || rank(a)[1] - rank(b)[1]);
    return under.length ? { kind: DIRECTIONS[way].one, index: under[0] } : null;
  }
  for (const way of BOTH) {
    const { svg } = part.panes[way];
    svg.addEventListener("pointermove", (event) => event.pointerType !== "touch" && hover(placeAt(way, event)));
    svg.addEventListener("pointerleave", () => hover(null));
    svg.addEventListener("click", (event) => { pause(); pin(placeAt(way, event)); });
  }

  function moveInPicture(way, key, from) {
    const centre = (p) => { const b = places(way).boxes[p]; return [(b[0] + b[2]) / 2, (b[1] + b[3]) / 2]; };
    const [x, y] = centre(from), along = key === "ArrowLeft" || key === "ArrowRight" ? 0 : 1;
    const sign = key === "ArrowRight" || key === "ArrowDown" ? 1 : -1;
    const cost = (p) => { const d = [centre(p)[0] - x, centre(p)[1] - y]; return sign * d[along] > 1e-6 ? Math.abs(d[along]) + 3 * Math.abs(d[1 - along]) : Infinity; };
    const next = eligible(way).reduce((best, p) => (cost(p) < cost(best) ? p : best), from);
    return cost(next) < Infinity ? next : from;
  }
  part.view.addEventListener("keydown", (event) => {
    const target = event.target, isPlace = target.classList.contains("place"), isWord = target.classList.contains("word");
    if (!isPlace && !isWord && event.key !== "Escape") return;
    const way = target.closest(".pane")?.dataset.direction, words = state.data.words.length;
    const t = Number(target.dataset.word), p = Number(target.dataset.place);
    const toWord = (index) => { pause(); pin({ kind: "word", index }); part.words.children[index].focus(); };
    const toPlace = (index) => { pause(); pin({ kind: DIRECTIONS[way].one, index }); part.panes[way].svg.querySelector(`[data-place="${index}"]`).focus(); };
    if (event.key === " ") play();
    else if (event.key === "Escape") clear();
    else if (isWord && event.key === "ArrowRight") toWord((t + 1) % words);
    else if (isWord && event.key === "ArrowLeft") toWord((t + words - 1) % words);
    else if (isWord && event.key === "Home") toWord(0);
    else if (isWord && event.key === "End") toWord(words - 1);
    else if (isPlace && event.key.startsWith("Arrow")) toPlace(moveInPicture(way, event.key, p));
    else if (isPlace && event.key === "Enter") pin({ kind: DIRECTIONS[way].one, index: p });
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  part.play.addEventListener("click", play);
  part.back.addEventListener("click", () => { pause(); step(-1); });
  part.next.addEventListener("click", () => { pause(); step(1); });
  part.clear.addEventListener("click", clear);
  part.sizes.addEventListener("change", () => { state.size = part.sizes.value; if (state.place?.kind === "object") state.place = null; draw(); });

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

  return { update, showNeighbours, pause, setMessage: (text) => { part.message.textContent = text; part.message.hidden = !text; } };
}

function build(root, options) {
  const button = (text, label) => element("button", { type: "button", "aria-label": label }, text);
  const part = { play: element("button", { type: "button", class: "play" }, "Play"), back: button("‹", "Previous word"),
    next: button("›", "Next word"), clear: element("button", { type: "button" }, "Plain picture"),
    sizes: element("select", {}), words: element("div", { class: "words", role: "group", "aria-label": "Words of the caption; arrow keys move, Space plays" }),
    bars: element("p", { class: "note bars" }), caption: element("p", { class: "caption" }),
    explained: element("div", { class: "status", "aria-live": "polite" }),
    unknown: element("p", { class: "note" }), score: element("div", { class: "result" }),
    message: element("p", { class: "message", role: "alert" }), captions: element("ol", { class: "captions" }),
    pictures: element("ol", { class: "pictures" }), searched: element("p", { class: "note" }) };
  part.message.hidden = true;
  part.panes = Object.fromEntries(BOTH.map((way) => [way, pane(way)]));
  const upload = options.onUpload ? uploader(part, options.onUpload) : "";
  part.neighbours = element("div", { class: "neighbours" },
    element("section", {}, element("h4", {}, "Captions nearest to this picture"), part.captions),
    element("section", {}, element("h4", {}, "Pictures nearest to this caption"), part.pictures), part.searched);
  part.neighbours.hidden = true;
  part.view = element("div", { class: "bssan-view", role: "group", "aria-label": "Attention between a caption and a picture",
    "data-lm-suppress-shortcuts": "true" }, tour(), part.caption, part.words, part.bars,
    element("div", { class: "controls" }, part.play, part.back, part.next, part.clear,
      element("label", {}, "objects ", part.sizes), upload),
    part.message,
    element("div", { class: "body" }, ...BOTH.map((way) => part.panes[way].whole),
      element("div", { class: "right" }, part.explained, part.unknown,
        element("section", {}, element("h4", {}, "Score of picture and caption"), part.score),
        element("p", { class: "note" }, "Keyboard: Tab to the words or a picture, then arrow keys. Space plays, Esc shows the plain picture."))),
    part.neighbours);
  root.replaceChildren(part.view);
  return part;
}

// One direction: its title, the picture with its places, the scale of the colours.
function pane(way) {
  const found = { image: element("img", {}), svg: shape("svg", { role: "group" }), bar: element("span", { class: "bar" }), max: element("span", {}) };
  found.stage = element("div", { class: "stage" }, found.image, found.svg);
  found.whole = element("section", { class: "pane", "data-direction": way }, element("h4", {}, DIRECTIONS[way].title), found.stage,
    element("p", { class: "scale" }, "0%", found.bar, found.max, element("span", {}, `share of ${DIRECTIONS[way].whose} attention`)));
  return found;
}

// Three steps; closed in one view they are closed in every view of the page.
function tour() {
  const close = element("button", { type: "button" }, "Close these steps");
  const whole = element("div", { class: "tour", role: "note" }, element("ol", {}, ...TOUR.map((step) => element("li", {}, step))), close);
  whole.hidden = document.documentElement.dataset.bssanTour === "closed";
  close.addEventListener("click", () => {
    document.documentElement.dataset.bssanTour = "closed";
    for (const one of document.querySelectorAll(".bssan-view .tour")) one.hidden = true;
  });
  return whole;
}

function uploader(part, onUpload) {
  const input = element("input", { type: "file", accept: "image/*", "aria-label": "Open a photograph of your own" });
  const take = (file) => file && onUpload(file);
  input.addEventListener("change", () => { take(input.files[0]); input.value = ""; });
  for (const { stage } of Object.values(part.panes)) {
    stage.addEventListener("dragover", (event) => event.preventDefault());
    stage.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
  }
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
    set("message", `Opening ${file.name} …`); // told to the kernel as well, so that whatever it says next is news
    const parts = Math.max(1, Math.ceil(file.size / PART));
    for (let i = 0; i < parts; i++) {
      const bytes = await file.slice(i * PART, (i + 1) * PART).arrayBuffer();
      model.send({ kind: "upload", name: file.name, part: i, parts }, undefined, [bytes]);
    }
  };
  let choices = 0;
  const view = createView(el, {
    onUpload: model.get("uploads") ? send : undefined,
    onChoose: (kind, index) => set("chosen", { kind, index, count: ++choices }),
  });
  const listeners = {
    "change:data": () => view.update(model.get("data")),
    "change:neighbours": () => view.showNeighbours(model.get("neighbours")),
    "change:message": () => view.setMessage(model.get("message")),
    "msg:custom": (message, buffers) => {
      if (message.kind !== "file") return;
      const link = element("a", { download: message.name });
      link.href = URL.createObjectURL(new Blob(buffers, { type: message.type }));
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    },
  };
  view.update(model.get("data"));
  view.showNeighbours(model.get("neighbours"));
  view.setMessage(model.get("message"));
  for (const [event, listener] of Object.entries(listeners)) model.on(event, listener);
  return () => {
    view.pause();
    for (const [event, listener] of Object.entries(listeners)) model.off(event, listener);
  };
}

export default { render };
