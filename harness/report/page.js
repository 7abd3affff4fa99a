(() => {
  "use strict";
  const all = (root, what) => [...root.querySelectorAll(what)];
  const root = document.documentElement;

  document.getElementById("theme").onclick = () => {
    const dark = getComputedStyle(root).colorScheme === "dark" ||
      (getComputedStyle(root).colorScheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
    root.style.colorScheme = dark ? "light" : "dark";
  };

  const units = {
    "bit/s": v => v >= 1e6 ? (v / 1e6).toFixed(2) + " Mbit/s" : (v / 1e3).toFixed(0) + " kbit/s",
    "B": v => v >= 1e6 ? (v / 1e6).toFixed(2) + " MB" : (v / 1e3).toFixed(1) + " kB",
    "ms": v => v >= 1e3 ? (v / 1e3).toFixed(2) + " s" : v.toFixed(0) + " ms",
  };

  for (const run of all(document, "section.run")) {
    const line = run.querySelector(".timeline");
    if (!line) continue;
    const plot = line.querySelector("svg.plot"), cursor = line.querySelector(".cursor");
    const canvas = line.querySelector(".canvas"), scroll = line.querySelector(".scroll");
    const outputs = all(line, "output").map(o => [o, units[o.dataset.unit], o.dataset.values.split("|").map(s => s.split(","))]);
    const start = +line.dataset.start / 1e9, end = +line.dataset.end / 1e9;
    const at = run.querySelector(".at");
    plot.addEventListener("pointermove", event => {
      const box = plot.getBoundingClientRect(), share = (event.clientX - box.left) / box.width;
      cursor.setAttribute("x1", share * 100 + "%");
      cursor.setAttribute("x2", share * 100 + "%");
      at.textContent = "t=" + (start + share * (end - start)).toFixed(3) + " s";
      const cell = Math.min(Math.floor(share * 200), 199);
      for (const [output, unit, series] of outputs)
        output.textContent = series.map(s => s[cell]).filter(v => v !== "" && v !== undefined).map(v => unit(+v)).join(" / ");
    });
    plot.addEventListener("pointerleave", () => {
      cursor.setAttribute("x1", "-1%"); cursor.setAttribute("x2", "-1%");
      at.textContent = "";
      for (const [output] of outputs) output.textContent = "";
    });
    let zoom = 1;
    const setZoom = value => {
      const middle = (scroll.scrollLeft + scroll.clientWidth / 2) / canvas.clientWidth;
      zoom = Math.min(Math.max(value, 1), 32);
      canvas.style.width = zoom * 100 + "%";
      scroll.scrollLeft = middle * canvas.clientWidth - scroll.clientWidth / 2;
    };
    for (const button of all(run, "button[data-zoom]"))
      button.onclick = () => setZoom(+button.dataset.zoom ? zoom * +button.dataset.zoom : 1);
  }

  for (const input of all(document, "details input")) {
    const rows = all(input.closest("details"), "tbody tr");
    input.oninput = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
    };
  }

  for (const button of all(document, "button[data-copy]"))
    button.onclick = async () => {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    };

  const reveal = () => {
    const row = location.hash && document.getElementById(location.hash.slice(1));
    const log = row && row.closest("details");
    if (log) { log.open = true; row.hidden = false; row.scrollIntoView({block: "center"}); }
  };
  addEventListener("hashchange", reveal);
  reveal();
})();
