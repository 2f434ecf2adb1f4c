"use strict";
const cells = JSON.parse(document.getElementById("data").textContent);
const percent = value => value === null ? "" : (100 * value).toFixed(1);
const signed = value => value === null ? "" : (value < 0 ? "−" : "+") + Math.abs(100 * value).toFixed(1);
const columns = [
  {key: "method", head: "method", text: true},
  {key: "mean", head: "accuracy", show: c => percent(c.mean) + (c.std === null ? "" : " ± " + percent(c.std))},
  {key: "n", head: "n"},
  {key: "dataset", head: "dataset", text: true, filter: true},
  {key: "size", head: "px", filter: true},
  {key: "ipc", head: "IPC", filter: true, show: c => c.ipc || "all images"},
  {key: "protocol", head: "protocol", text: true, filter: true},
  {key: "student", head: "student", text: true, filter: true},
  {key: "gain", head: "over random", show: c => signed(c.gain)},
  {key: "share", head: "of full, %", show: c => percent(c.share)},
  {key: "ratio", head: "random images", show: c => c.ratio_text},
  {key: "slope", head: "per image", show: c => c.slope === null ? "" : (c.slope < 0 ? "−" : "+") + Math.abs(100 * c.slope).toFixed(2)},
  {key: "seconds", head: "seconds", show: c => c.seconds === null ? "" : c.seconds.toFixed(0)},
  {key: "init", head: "start", text: true, filter: true},
  {key: "precision", head: "precision", text: true, filter: true},
  {key: "split", head: "split", text: true, filter: true},
  {key: "evaluators", head: "evaluators", text: true, filter: true},
];
const chosen = {};
let order = {key: "mean", up: false};

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function compare(a, b) {
  const [x, y] = [a[order.key], b[order.key]];
  if (x === null || y === null) return (x === null) - (y === null);
  const ahead = typeof x === "string" ? x.localeCompare(y) : x - y;
  return order.up ? ahead : -ahead;
}

function fits(cell) {
  const words = (chosen.text || "").toLowerCase();
  return columns.every(c => !chosen[c.key] || String(cell[c.key]) === chosen[c.key]) && cell.method.toLowerCase().includes(words);
}

function draw() {
  const shown = cells.filter(fits).sort(compare);
  document.getElementById("count").textContent = `${shown.length} of ${cells.length} cells`;
  document.querySelector("#board tbody").replaceChildren(...shown.map(line));
  document.querySelectorAll("#board th").forEach((head, i) => {
    head.ariaSort = columns[i].key === order.key ? (order.up ? "ascending" : "descending") : "none";
  });
}

function line(cell) {
  const row = make("tr", {tabIndex: 0}, ...columns.map(c => make("td", {
    className: c.text ? "text" : "", textContent: c.show ? c.show(cell) : cell[c.key],
  })));
  row.addEventListener("click", () => open(cell));
  row.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(cell); }
  });
  return row;
}

function open(cell) {
  const facts = `${cell.init}, ${cell.precision}, split ${cell.split}, evaluators ${cell.evaluators}; n = ${cell.n} distillations, ${cell.students} students`
    + (cell.interval === null ? "" : `; 95 % interval ± ${percent(cell.interval)}`)
    + (cell.slope_from === null ? "" : `; points per added image since IPC ${cell.slope_from}: ${(100 * cell.slope).toFixed(2)}`)
    + (cell.between === null ? "" : `; deviation between distillations ${percent(cell.between)}, within ${percent(cell.within)}`);
  const parts = cell.results.map(r => make("section", {},
    make("h3", {textContent: `seed ${r.seed}, student ${r.student_seed}: ${percent(r.overall)} % (by class ${percent(r.average)} %)`}),
    make("pre", {textContent: r.command}),
    make("p", {textContent: `${r.device}, ${r.seconds.toFixed(0)} s; commit ${r.commit || "unknown"}${r.dirty ? ", changed" : ""}; `
      + Object.entries(r.versions).map(pair => pair.join(" ")).join(", ")}),
    make("p", {textContent: `${r.path}; images ${r.content.slice(0, 16)}`
      + (r.source ? `; the method is a file with SHA-256 ${r.source.slice(0, 16)}` : "")})));
  show("details", make("h2", {textContent: `${cell.method}: ${cell.dataset}, ${cell.size} px, IPC ${cell.ipc || "all"}`}),
    make("p", {textContent: `${cell.student}, ${cell.protocol}, ${facts}`}), ...parts);
}

function show(id, ...children) {
  const dialog = document.getElementById(id);
  const close = make("button", {type: "button", className: "close", textContent: "Close"});
  close.addEventListener("click", () => dialog.close());
  dialog.replaceChildren(close, ...children);
  dialog.showModal();
  dialog.scrollTop = 0;
}

function heads() {
  document.querySelector("#board thead tr").replaceChildren(...columns.map(c => {
    const button = make("button", {type: "button", textContent: c.head});
    button.addEventListener("click", () => {
      order = {key: c.key, up: order.key === c.key ? !order.up : Boolean(c.text)};
      draw();
    });
    return make("th", {scope: "col", className: c.text ? "text" : ""}, button);
  }));
}

function filters() {
  const form = document.getElementById("filters");
  const text = make("input", {type: "search"});
  text.addEventListener("input", () => { chosen.text = text.value; draw(); });
  form.append(make("label", {}, "method has", text));
  for (const c of columns.filter(c => c.filter)) {
    const values = [...new Set(cells.map(cell => cell[c.key]))].sort((a, b) => typeof a === "number" ? a - b : a.localeCompare(b));
    const options = values.map(v => make("option", {value: String(v), textContent: c.show ? c.show({[c.key]: v}) : v}));
    const select = make("select", {}, make("option", {value: "", textContent: "all"}), ...options);
    select.addEventListener("change", () => { chosen[c.key] = select.value; draw(); });
    form.append(make("label", {}, c.head, select));
  }
  form.addEventListener("submit", event => event.preventDefault());
}

function classes() {
  const [one, other] = ["one", "other"].map(id => document.getElementById(id));
  const said = ["init", "precision", "split", "evaluators"].filter(key => new Set(cells.map(c => c[key])).size > 1);
  const name = c => `${c.dataset}, ${c.size} px, IPC ${c.ipc || "all"}, ${[c.protocol, c.student, ...said.map(key => c[key])].join(", ")}: ${c.method}`;
  for (const select of [one, other]) {
    select.append(...cells.map((c, i) => make("option", {value: String(i), textContent: name(c)})));
    select.addEventListener("change", differ);
  }
  const where = ["dataset", "size", "ipc", "protocol", "student", "init", "precision", "split", "evaluators"];
  const random = cell => cells.findIndex(c => c.name === "random" && c !== cell && where.every(key => c[key] === cell[key]));
  const compared = cells.filter(c => random(c) >= 0);
  const best = (compared.length ? compared : cells).reduce((a, b) => b.mean > a.mean ? b : a);
  one.value = String(cells.indexOf(best));
  other.value = String(Math.max(0, random(best)));
  differ();
}

const same = (a, b) => Object.keys(a.classes).join("\n") === Object.keys(b.classes).join("\n");

function differ() {
  const [one, other] = ["one", "other"].map(id => cells[document.getElementById(id).value]);
  const place = document.getElementById("difference");
  if (!same(one, other)) {
    place.replaceChildren(make("p", {textContent: "These two have different classes."}));
  } else {
    const apart = Object.keys(one.classes).map(name => [name, one.classes[name] - other.classes[name]]).sort((a, b) => b[1] - a[1]);
    place.replaceChildren(...apart.map(([name, value]) => {
      const fill = make("div", {className: "fill " + (value < 0 ? "down" : "up")});
      fill.style.width = `${50 * Math.abs(value)}%`;
      return make("div", {className: "bar"}, make("span", {textContent: name}),
        make("div", {className: "track"}, fill), make("span", {textContent: signed(value)}));
    }));
  }
  confusion(one);
}

function confusion(cell) {
  const names = Object.keys(cell.classes);
  const head = make("thead", {}, make("tr", {}, make("th"), ...names.map(n => make("th", {scope: "col", textContent: n}))));
  const body = make("tbody", {}, ...cell.confusion.map((row, i) => {
    const all = row.reduce((a, b) => a + b, 0) || 1;
    return make("tr", {}, make("th", {scope: "row", className: "text", textContent: names[i]}), ...row.map((count, j) => {
      const share = count / all;
      const td = make("td", {textContent: count ? Math.round(100 * share) : "", title: `${names[i]} predicted as ${names[j]}: ${count}`});
      td.style.background = `rgb(${255 - 255 * share} ${255 - 141 * share} ${255 - 77 * share})`;
      td.style.color = share > .6 ? "#fff" : "inherit";
      return td;
    }));
  }));
  const caption = make("caption", {textContent: "rows: true class; columns: predicted class; % of the row"});
  document.getElementById("confusion").replaceChildren(make("table", {}, caption, head, body));
}

document.querySelectorAll(".zoom").forEach(button => button.addEventListener("click", () => {
  const image = button.querySelector("img");
  show("large", make("p", {textContent: image.alt}), make("img", {src: image.src, alt: image.alt}));
}));
heads();
filters();
draw();
if (cells.length) classes();
