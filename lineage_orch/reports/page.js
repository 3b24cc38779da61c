"use strict";
// Draws nothing by itself: the drawings are in the templates. It moves, lights, searches and filters them.
// Texts reach the page by textContent alone.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const el = id => document.getElementById(id);
  const main = el("main"), card = el("card");
  const children = data.items.map(() => []), parents = data.items.map(() => []);
  for (const [a, b] of data.edges) { children[a].push(b); parents[b].push(a); }
  const numbers = data.items.map((_, number) => number);
  const folderOf = data.items.map(each => each.folder);
  const hidden = new Set();
  let svg, scene, boxes = new Map(), chosen = null, lit = null;
  let scale = 1, left = 0, top = 0;

  const text = (parent, tag, words) => {
    const made = document.createElement(tag);
    made.textContent = words;
    parent.append(made);
    return made;
  };
  // The items that a box stands for: itself, or all in its folder.
  const itemsOf = key => key[0] === "f"
    ? numbers.filter(each => folderOf[each] === parseInt(key.slice(1), 10))
    : [Number(key)];
  const downstream = starts => {
    const seen = new Set(), walk = [...starts];
    for (const each of walk) for (const child of children[each]) if (!seen.has(child)) { seen.add(child); walk.push(child); }
    return seen;
  };

  // The drawing -------------------------------------------------------------------------------------------
  const place = () => scene.setAttribute("transform", `translate(${left} ${top}) scale(${scale})`);
  // All of it; or, where it would be too small to read, the start of it.
  const fit = (readable = true) => {
    const { width, height } = main.getBoundingClientRect();
    const w = Number(svg.dataset.w), h = Number(svg.dataset.h);
    const whole = Math.min(width / w, height / h, 1.25);
    scale = readable && whole < 0.55 ? 0.8 : whole;
    left = Math.max((width - w * scale) / 2, 0);
    top = (height - h * scale) / 2;
    if (h * scale > height) {
      const first = boxes.values().next().value;
      top = Math.min(0, Math.max(height - h * scale, height / 2 - first.transform.baseVal[0].matrix.f * scale));
    }
    place();
  };
  const zoom = (factor, x, y) => {
    const next = Math.min(4, Math.max(0.05, scale * factor));
    left = x - (x - left) * next / scale;
    top = y - (y - top) * next / scale;
    scale = next;
    place();
  };
  const middle = factor => { const { width, height } = main.getBoundingClientRect(); zoom(factor, width / 2, height / 2); };
  const center = box => {
    const { width, height } = main.getBoundingClientRect();
    const at = box.transform.baseVal[0].matrix, size = box.getBBox();
    scale = Math.max(scale, 0.8);
    left = width / 2 - (at.e + size.width / 2) * scale;
    top = height / 2 - (at.f + size.height / 2) * scale;
    place();
  };
  const show = number => {
    svg?.remove();
    svg = document.importNode(el(`view-${number}`).content, true).firstElementChild;
    main.prepend(svg);
    scene = svg.querySelector(".all");
    boxes = new Map([...svg.querySelectorAll(".n")].map(box => [box.dataset.k, box]));
    boxes.values().next().value?.setAttribute("tabindex", "0");
    el("view").value = String(number);
    fit();
    paint();
  };
  const visible = number => {
    const item = data.items[number];
    return !(hidden.has(item.state) || item.marks.some(each => hidden.has(each))
      || (el("tag").value && !item.tags.includes(el("tag").value))
      || (el("folder").value && item.folder !== Number(el("folder").value)));
  };
  const paint = () => {
    svg.classList.toggle("lit", lit !== null);
    const on = new Map();
    for (const [key, box] of boxes) {
      const items = itemsOf(key);
      box.classList.toggle("dim", !items.some(visible));
      on.set(key, lit !== null && items.some(each => lit.has(each) || chosen.items.includes(each)));
      box.classList.toggle("on", on.get(key));
      box.classList.toggle("start", chosen !== null && chosen.key === key);
    }
    for (const edge of svg.querySelectorAll(".e")) {
      const { a, b } = edge.dataset;
      edge.classList.toggle("on", on.get(a) && on.get(b) && (b[0] === "f" || lit.has(Number(b))));
      edge.classList.toggle("dim", boxes.get(a).classList.contains("dim") || boxes.get(b).classList.contains("dim"));
    }
  };

  // What is chosen ----------------------------------------------------------------------------------------
  const titleOf = key => key[0] === "f" ? data.folders[parseInt(key.slice(1), 10)] : data.items[Number(key)].name;
  const linesOf = key => key[0] === "f" ? [boxes.get(key).lastElementChild.textContent, "Choose it again to open it."] : data.items[Number(key)].lines;
  const choose = key => {
    chosen = { key, items: itemsOf(key) };
    lit = downstream(chosen.items);
    el("about").hidden = false;
    el("help").hidden = true;
    el("name").textContent = titleOf(key);
    el("lines").replaceChildren();
    const item = key[0] === "f" ? null : data.items[Number(key)];
    if (item) text(el("lines"), "p", item.caption).className = "soft";
    for (const line of linesOf(key)) text(el("lines"), "p", line);
    if (item && item.tags.length) text(el("lines"), "p", `Tags: ${item.tags.join(", ")}`);
    el("copying").hidden = !(item && item.select);
    el("select").value = item ? item.select : "";
    el("open").hidden = item !== null;
    const below = [...lit].filter(each => !chosen.items.includes(each));
    el("many").textContent = `Downstream: ${below.length}`;
    el("below").replaceChildren();
    for (const each of below.slice(0, 300)) {
      const button = text(text(el("below"), "li", ""), "button", data.items[each].name);
      button.addEventListener("click", () => go(each));
    }
    if (below.length > 300) text(el("below"), "li", `and ${below.length - 300} more`);
    paint();
  };
  const clear = () => {
    chosen = lit = null;
    el("about").hidden = true;
    el("help").hidden = false;
    el("source").value = "";
    paint();
  };
  // Show an item, in the view that it is in, and choose it.
  const go = number => {
    const key = String(number);
    if (!boxes.has(key)) {
      const whole = data.views.findIndex(each => each.all);
      show(whole >= 0 ? whole : data.views.findIndex(each => each.folder === folderOf[number]));
    }
    choose(key);
    center(boxes.get(key));
    focus(key);
    card.hidden = true; // it would say what stands beside it
  };
  const focus = key => {
    svg.querySelector('.n[tabindex="0"]')?.removeAttribute("tabindex");
    const box = boxes.get(key);
    box.setAttribute("tabindex", "0");
    box.focus({ preventScroll: true });
  };
  const open = key => {
    show(data.views.findIndex(each => each.folder === parseInt(key.slice(1), 10)));
    clear();
    focus(boxes.keys().next().value);
  };

  // The card that says why ----------------------------------------------------------------------------------
  const tell = (title, lines, x, y) => {
    card.replaceChildren();
    text(text(card, "p", ""), "b", title);
    for (const line of lines.slice(0, 8)) text(card, "p", line);
    if (lines.length > 8) text(card, "p", `and ${lines.length - 8} more`);
    card.hidden = false;
    const { width, height } = card.getBoundingClientRect();
    card.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 8))}px`;
    card.style.top = `${y + 18 + height > innerHeight ? Math.max(4, y - height - 12) : y + 18}px`;
  };
  const about = (target, x, y) => {
    const box = target.closest?.(".n"), bar = target.closest?.(".m");
    if (box) {
      const caption = box.lastElementChild.textContent;
      tell(titleOf(box.dataset.k), [caption, ...linesOf(box.dataset.k).filter(line => line !== caption)], x, y);
    } else if (bar) tell(data.slots[bar.dataset.m][0], data.slots[bar.dataset.m].slice(1), x, y);
    else card.hidden = true;
  };
  document.addEventListener("pointermove", event => { if (!drag) about(event.target, event.clientX, event.clientY); });
  document.addEventListener("focusin", event => {
    if (!event.target.matches(":focus-visible")) return;
    const { right, top: y } = event.target.getBoundingClientRect();
    about(event.target, right, y);
  });

  // Mouse and keys ------------------------------------------------------------------------------------------
  let drag = null, moved = false;
  main.addEventListener("pointerdown", event => {
    if (event.button === 0 && event.target.closest("svg.picture")) { drag = [event.clientX - left, event.clientY - top]; moved = false; }
  });
  addEventListener("pointermove", event => {
    if (!drag) return;
    const [x, y] = [event.clientX - drag[0], event.clientY - drag[1]];
    if (Math.abs(x - left) + Math.abs(y - top) > 3) moved = true;
    if (moved) { left = x; top = y; card.hidden = true; place(); }
  });
  addEventListener("pointerup", () => { drag = null; });
  main.addEventListener("click", event => {
    const box = event.target.closest(".n");
    if (!event.target.closest("svg.picture") || moved) return;
    if (!box) return clear();
    if (chosen && chosen.key === box.dataset.k && box.dataset.k[0] === "f") return open(box.dataset.k);
    choose(box.dataset.k);
    focus(box.dataset.k);
    card.hidden = true;
  });
  main.addEventListener("wheel", event => {
    event.preventDefault();
    const at = main.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 500), event.clientX - at.left, event.clientY - at.top);
  }, { passive: false });
  main.addEventListener("keydown", event => {
    const box = event.target.closest(".n");
    if (!box) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (chosen && chosen.key === box.dataset.k && box.dataset.k[0] === "f") open(box.dataset.k); else choose(box.dataset.k);
      return;
    }
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    const at = each => each.transform.baseVal[0].matrix;
    const own = at(box), key = box.dataset.k;
    const along = side => [...svg.querySelectorAll(`.e[data-${side}="${CSS.escape(key)}"]`)].map(edge => boxes.get(edge.dataset[side === "a" ? "b" : "a"]));
    const near = { ArrowRight: () => along("a"), ArrowLeft: () => along("b"),
      ArrowDown: () => [...boxes.values()].filter(each => at(each).e === own.e && at(each).f > own.f),
      ArrowUp: () => [...boxes.values()].filter(each => at(each).e === own.e && at(each).f < own.f) }[event.key]();
    near.sort((a, b) => Math.abs(at(a).f - own.f) - Math.abs(at(b).f - own.f));
    if (near.length) {
      focus(near[0].dataset.k);
      const seen = near[0].getBoundingClientRect(), frame = main.getBoundingClientRect();
      if (seen.left < frame.left || seen.right > frame.right || seen.top < frame.top || seen.bottom > frame.bottom) center(near[0]);
    }
  });
  addEventListener("keydown", event => {
    if (event.key === "Escape") { el("search").value = ""; search(); clear(); card.hidden = true; }
    if (event.key === "/" && event.target.tagName !== "INPUT") { event.preventDefault(); el("search").focus(); }
  });
  document.querySelector(".timeline")?.addEventListener("keydown", event => {
    const bars = [...document.querySelectorAll(".m")];
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = step && bars[bars.indexOf(event.target) + step];
    if (!next) return;
    event.preventDefault();
    event.target.removeAttribute("tabindex");
    next.setAttribute("tabindex", "0");
    next.focus();
  });
  document.querySelector(".m")?.setAttribute("tabindex", "0");

  // Search and filters --------------------------------------------------------------------------------------
  const search = () => {
    const words = el("search").value.toLowerCase().split(/\s+/).filter(Boolean), hits = el("hits");
    hits.replaceChildren();
    hits.hidden = !words.length;
    if (!words.length) return;
    const found = numbers.filter(each => words.every(word => data.items[each].name.toLowerCase().includes(word)));
    found.sort((a, b) => data.items[a].name.length - data.items[b].name.length || a - b);
    for (const each of found.slice(0, 40)) {
      const button = text(text(hits, "li", ""), "button", `${data.items[each].name} · ${data.items[each].caption}`);
      button.addEventListener("click", () => { el("search").value = ""; search(); go(each); });
    }
    if (!found.length) text(hits, "li", "Nothing has such a name.");
    if (found.length > 40) text(hits, "li", `and ${found.length - 40} more`);
  };
  el("search").addEventListener("input", search);
  el("search").addEventListener("keydown", event => {
    if (event.key === "Enter") el("hits").querySelector("button")?.click();
    if (event.key === "ArrowDown") { event.preventDefault(); el("hits").querySelector("button")?.focus(); }
  });
  el("hits").addEventListener("keydown", event => {
    const item = event.target.closest("li"), next = { ArrowDown: item?.nextSibling, ArrowUp: item?.previousSibling }[event.key];
    if (next) { event.preventDefault(); next.querySelector("button")?.focus(); }
  });
  for (const id of ["tag", "folder"]) el(id).addEventListener("change", paint);
  el("source").addEventListener("change", () => {
    const key = el("source").value;
    if (!key) return clear();
    choose(key);
    // The focus stays in the list: there one goes on by the keyboard.
    const box = boxes.get(key) || boxes.get(`f${folderOf[Number(key)]}`);
    if (box) center(box);
  });
  el("view").addEventListener("change", () => show(Number(el("view").value)));
  for (const chip of document.querySelectorAll(".chip")) {
    chip.addEventListener("click", () => {
      const { state } = chip.dataset;
      if (!hidden.delete(state)) hidden.add(state);
      chip.setAttribute("aria-pressed", String(!hidden.has(state)));
      paint();
    });
  }
  el("in").addEventListener("click", () => middle(1.3));
  el("out").addEventListener("click", () => middle(1 / 1.3));
  el("fit").addEventListener("click", () => fit(false));
  el("clear").addEventListener("click", clear);
  el("open").firstElementChild.addEventListener("click", () => open(chosen.key));
  el("copy").addEventListener("click", async () => {
    el("select").select();
    try { await navigator.clipboard.writeText(el("select").value); } catch { document.execCommand("copy"); }
    el("copy").textContent = "Copied";
    setTimeout(() => { el("copy").textContent = "Copy"; }, 1500);
  });
  addEventListener("resize", () => { if (!chosen) fit(); });
  show(0);
})();
