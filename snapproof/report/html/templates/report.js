"use strict";
// The page can be read without this script. It adds the search, and opens all details for printing.
(() => {
  const tests = [...document.querySelectorAll("details.test")];
  const groups = [...document.querySelectorAll("details.group")];
  const box = document.querySelector(".filter");
  if (box && tests.length > 5) {
    const input = box.querySelector("input");
    const hits = box.querySelector(".hits");
    const texts = tests.map(t =>
      (t.querySelector("summary").textContent + " " + t.querySelector(".sentence").textContent).toLowerCase());
    const before = groups.map(g => g.open);
    box.hidden = false;
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let found = 0;
      tests.forEach((t, i) => {
        t.hidden = !words.every(w => texts[i].includes(w));
        found += !t.hidden;
      });
      groups.forEach((g, i) => {
        g.hidden = !g.querySelector("details.test:not([hidden])");
        g.open = words.length ? !g.hidden : before[i];
      });
      hits.textContent = words.length ? found + " of " + tests.length : "";
    });
  }
  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (!target) return;
    for (let e = target; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  reveal();
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach(d => { d.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach(d => { d.open = false; }));
})();
