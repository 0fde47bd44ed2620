"use strict";
// Keeps the page of a run that is still going up to date: looks whether the run has changed, and
// exchanges what has, so that zoom, chosen layers and place on the page stay.
(() => {
  const subtitle = document.querySelector(".subtitle");
  const PATIENCE = 3; // looks that fail before the page says so
  let version = VERSION; // of what this page shows
  const keys = (root) => [...root.querySelectorAll(".plot")].map((plot) => plot.dataset.key).join("|");
  const names = (root) => [...root.querySelectorAll(".chip")].map((chip) => chip.dataset.layer).join("|");
  const said = (root) => [...root.querySelectorAll(".findings li, .notice")].length;

  function exchange(made) {
    if (keys(made) !== keys(document) || names(made) !== names(document) || said(made) !== said(document)) {
      location.reload();
      return;
    }
    [".facts", ".findings"].forEach((selector) => {
      const [now, next] = [document.querySelector(selector), made.querySelector(selector)];
      if (now && next) now.innerHTML = next.innerHTML;
    });
    document.querySelectorAll(".overview tbody tr").forEach((row) => {
      const name = CSS.escape(row.dataset.layer);
      const next = made.querySelector(`.overview tbody tr[data-layer="${name}"]`);
      [...row.cells].forEach((cell, i) => {
        if (!i) return;
        cell.innerHTML = next.cells[i].innerHTML;
        cell.dataset.value = next.cells[i].dataset.value;
        cell.style.cssText = next.cells[i].style.cssText;
      });
    });
    const specs = {};
    made.querySelectorAll(".plot").forEach((plot) => {
      specs[plot.dataset.key] = JSON.parse(made.getElementById(`spec-${plot.dataset.figure}`).textContent);
    });
    dispatchEvent(new CustomEvent("layerscope-specs", { detail: specs }));
  }

  let failed = 0; // looks in a row
  async function look() {
    let wait = REFRESH;
    try {
      const answer = await fetch("state");
      if (!answer.ok) throw new Error(await answer.text());
      const state = await answer.json();
      subtitle.textContent = state.text;
      if (state.version !== version) {
        const page = await (await fetch("/")).text();
        exchange(new DOMParser().parseFromString(page, "text/html"));
      }
      version = state.version;
      failed = 0;
      document.documentElement.dataset.live = state.status;
      if (state.status !== "running") return;
    } catch (error) {
      failed += 1;
      if (failed >= PATIENCE) { // a run that cannot be read now may be read later
        subtitle.textContent = "The run is no longer watched; the page shows what was known last.";
        document.documentElement.dataset.live = "lost";
        wait *= 10;
      }
    }
    setTimeout(look, wait);
  }
  look();
})();
