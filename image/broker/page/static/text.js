// Numbers, times and texts as a person reads them. Text from the cluster only ever becomes a text node.

export function duration(seconds) {
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  return `${(s / 3600).toFixed(1)} h`;
}

export function clock(at, seconds = true) {
  const format = { hour: "2-digit", minute: "2-digit", ...(seconds ? { second: "2-digit" } : {}), hour12: false };
  return new Date(at * 1000).toLocaleTimeString(undefined, format);
}

// The process of an R session; a session on another machine has drawn a number below 0.
export function process(pid) {
  return pid < 0 ? `${-pid} elsewhere` : String(pid || "");
}

export function count(number) {
  return number.toLocaleString("en");
}

export function memory(worker) {
  if (worker.memory === null) return "";
  return worker.limit ? `${count(worker.memory)} of ${count(worker.limit)} MiB` : `${count(worker.memory)} MiB`;
}

// Set the text of an element only if it differs, so that a screen reader does not repeat it.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Fill a table's body with rows of texts, cell by cell, so that selection and reading position stay.
export function fill(body, rows) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, i) => {
    const row = body.rows[i] ?? body.insertRow();
    cells.forEach((cell, j) => {
      const td = row.cells[j] ?? row.insertCell();
      if (cell instanceof Node) td.replaceChildren(cell);
      else say(td, String(cell));
    });
  });
}

export function legend(list, entries) {
  list.replaceChildren(
    ...entries.map(([name, words]) => {
      const swatch = element("i");
      swatch.style.background = `var(--${name})`;
      return element("li", {}, swatch, words);
    }),
  );
}
