"use strict";
(function () {
  const plots = Array.from(document.querySelectorAll(".plot"));
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
  // A string such as "--accent" anywhere in a figure stands for that colour of the page.
  function coloured(value) {
    if (typeof value === "string") return value.startsWith("--") ? colour(value) : value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, coloured(inner)]));
  }
  function theme(own, height) {
    const ink = colour("--ink"), soft = colour("--soft"), line = colour("--line");
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickfont: { color: soft }, automargin: true };
    const layout = Object.assign({
      showlegend: true, legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", traceorder: "normal" }, hovermode: "closest",
    }, own, {
      autosize: true, height: own.height || height, margin: { l: 8, r: 8, t: 8, b: 8 },
      font: { color: ink, family: "system-ui, sans-serif", size: 12 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      colorway: ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"].map(colour), dragmode: false,
      hoverlabel: { align: "left" },
    });
    layout.xaxis = Object.assign({}, axis, own.xaxis);
    layout.yaxis = Object.assign({}, axis, own.yaxis);
    return layout;
  }
  function draw(width) {
    for (const plot of plots) {
      if (plot.closest("details:not([open])")) continue;
      const figure = coloured(JSON.parse(plot.nextElementSibling.textContent));
      const layout = theme(figure.layout, width ? 230 : 300);
      // numbers in the cells of a map would run into each other on a phone
      for (const trace of figure.data) if (plot.clientWidth < 420 && trace.x && trace.x.length > 5) delete trace.texttemplate;
      if (figure.layout.height) plot.style.height = figure.layout.height + "px";
      if (width) { layout.width = Math.min(width, plot.clientWidth || width); layout.autosize = false; }
      Plotly.react(plot, figure.data, layout, { displayModeBar: false, responsive: true });
    }
  }
  if (plots.length) {
    draw();
    dark.addEventListener("change", () => draw());
    window.addEventListener("beforeprint", () => draw(660));
    window.matchMedia("print").addEventListener("change", (event) => draw(event.matches ? 660 : 0));
    window.addEventListener("afterprint", () => draw());
    for (const box of document.querySelectorAll("details")) box.addEventListener("toggle", () => draw());
  }

  for (const box of document.querySelectorAll(".searchable")) {
    const body = box.querySelector("tbody"), rows = Array.from(body.rows);
    const field = box.querySelector("input"), count = box.querySelector(".count");
    const texts = rows.map((row) => row.textContent.toLowerCase());
    function filter() {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, index) => {
        const found = words.every((word) => texts[index].includes(word));
        row.classList.toggle("hidden", !found);
        shown += found;
      });
      count.textContent = shown === rows.length ? rows.length + " rows" : shown + " of " + rows.length + " rows";
    }
    field.addEventListener("input", filter);
    box.querySelectorAll("th").forEach((title, column) => title.querySelector("button").addEventListener("click", () => {
      const up = title.getAttribute("aria-sort") === "descending";
      box.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      title.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const numbers = rows.every((row) => row.cells[column].dataset.value !== undefined || key(row) === "–");
      const order = rows.slice().sort((a, b) => numbers ? value(key(a)) - value(key(b)) : key(a).localeCompare(key(b)));
      if (!up) order.reverse();
      body.append(...order);
    }));
    filter();
  }
  function value(text) { const found = parseFloat(text); return Number.isNaN(found) ? -Infinity : found; }
})();
