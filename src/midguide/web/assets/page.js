"use strict";
// What both pages share: the data inside the page, elements, and verdicts.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const make = (tag, text, parent) => { const e = document.createElement(tag); e.textContent = text; parent.append(e); return e; };
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

// Text whose `names` in backticks become code.
function say(tag, text, parent) {
  const element = make(tag, "", parent);
  text.split("`").forEach((part, i) => (i % 2 ? make("code", part, element) : element.append(part)));
  return element;
}

function judge(verdict, box) {
  const found = verdict.filter((v) => v.advice).length;
  box.replaceChildren();
  make("p", found ? `${found} of ${verdict.length} numbers are outside their bands.` : "Nothing found by these checks. They do not show that the draws are right.", box).className = found ? "found" : "";
  const table = make("table", "", box);
  for (const each of verdict) {
    const row = make("tr", "", table);
    make("th", each.check, row).scope = "row";
    const cell = say("td", each.line, row);
    if (each.advice) say("div", each.advice, cell).className = "found";
  }
}
