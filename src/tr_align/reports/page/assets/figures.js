// Figures: drawn for the width and theme of the moment, and saved as SVG, PNG or CSV.
const FIGURES = stored('figures-data');
const narrowScreen = matchMedia('(max-width: 640px)');
const darkSystem = matchMedia('(prefers-color-scheme: dark)');
const views = new Map();
let drawing = 0;

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === 'dark' : darkSystem.matches;
}

function rowsOf(table) {
  const rows = Array.from({length: table.n}, () => ({}));
  table.names.forEach((name, column) => {
    table.columns[column].forEach((value, row) => { rows[row][name] = value; });
  });
  return rows;
}

// A copy of the spec with its rows and common parts put back and, for a dark page, every colour replaced by its dark twin.
function completed(part, figure, colours) {
  if (Array.isArray(part)) return part.map((item) => completed(item, figure, colours));
  if (typeof part === 'string') {
    // expressions name colours too
    return colours[part] ?? part.replace(/#[0-9a-f]{6}\b/gi, (colour) => colours[colour.toLowerCase()] ?? colour);
  }
  if (part === null || typeof part !== 'object') return part;
  if ('$part' in part) return completed(figure.parts[part.$part], figure, colours);
  const copy = {};
  for (const [key, value] of Object.entries(part)) {
    // a name of a field or a value of data is no colour, whatever it spells
    if (key === '$rows') copy.values = rowsOf(figure.tables[value]);
    else copy[key] = key === 'field' ? value : completed(value, figure, colours);
  }
  return copy;
}

// Vega-Lite 5 compiles for Vega 5 and the bundle runs Vega 6, which vega-embed mentions at every figure and offers no
// way to silence; all other warnings are worth reading.
const warn = console.warn.bind(console);
console.warn = (...words) => {
  if (!String(words[0]).startsWith('The compiled spec uses Vega v5')) warn(...words);
};

const OPTIONS = {
  mode: 'vega-lite',
  renderer: 'svg',
  actions: false,
  defaultStyle: false,
  // the interpreter instead of generated code, which the page's policy forbids
  ast: true,
  tooltip: {disableDefaultStyle: true},
};

async function draw(figure) {
  const place = find(`[data-figure="${figure.name}"]`);
  const spec = completed(
    narrowScreen.matches ? figure.narrow : figure.wide, figure, isDark() ? FIGURES.dark : {});
  // the page's own colour stands behind it, on paper too
  spec.background = 'transparent';
  try {
    views.get(figure.name)?.finalize();
    views.set(figure.name, await vegaEmbed(place, spec, OPTIONS));
    // its place has a description in words; hundreds of unnamed marks would add nothing to it
    find('svg', place).setAttribute('aria-hidden', 'true');
  } catch (error) {
    place.textContent = `This figure could not be drawn: ${error.message}`;
    console.error(figure.name, error);
  }
}

// One after the other, with a pause in which the page stays responsive; a newer call ends an older one.
async function drawAll() {
  const mine = ++drawing;
  for (const figure of FIGURES.figures) {
    await draw(figure);
    await new Promise((resolve) => { setTimeout(resolve); });
    if (mine !== drawing) return;
  }
  document.documentElement.dataset.drawn = mine;
}

// Files are always in the light colours, for they end up on white paper.
async function rendered(figure, kind) {
  const spec = completed(kind === 'print' ? figure.print : figure.wide, figure, {});
  const {view, finalize} = await vegaEmbed(element('div'), spec, OPTIONS);
  try {
    if (kind === 'png') {
      const canvas = await view.toCanvas(2);
      return await new Promise((resolve) => { canvas.toBlob(resolve); });
    }
    return new Blob([await view.toSVG()], {type: 'image/svg+xml'});
  } finally {
    finalize();
  }
}

function csv(table) {
  const quoted = (value) => {
    if (value === null || value === undefined) return '';
    const text = typeof value === 'object' ? JSON.stringify(value) : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [table.names, ...rowsOf(table).map((row) => table.names.map((name) => row[name]))];
  return lines.map((line) => `${line.map(quoted).join(',')}\r\n`).join('');
}

async function download(figure, kind) {
  if (kind === 'csv') {
    save(`${figure.name}.csv`, new Blob([csv(figure.tables[figure.csv])], {type: 'text/csv'}));
  } else {
    const ending = {svg: '.svg', png: '.png', print: '-paper.svg'}[kind];
    save(`${figure.name}${ending}`, await rendered(figure, kind));
  }
}

// A drawing cannot be made anew in the instant before printing: a dark one has its colours put back in place.
function recolour(pairs) {
  const colours = new Map(pairs);
  for (const mark of findAll('.plot [fill], .plot [stroke]')) {
    for (const name of ['fill', 'stroke']) {
      const other = colours.get(mark.getAttribute(name));
      if (other) mark.setAttribute(name, other);
    }
  }
}

function startFigures() {
  for (const figure of FIGURES.figures) {
    const files = find(`[data-files="${figure.name}"]`);
    files.hidden = false;
    files.addEventListener('click', (event) => {
      const kind = event.target.closest('button')?.dataset.kind;
      if (kind) download(figure, kind);
    });
  }
  narrowScreen.addEventListener('change', drawAll);
  darkSystem.addEventListener('change', drawAll);
  addEventListener('beforeprint', () => {
    if (isDark()) recolour(Object.entries(FIGURES.dark).map(([light, dark]) => [dark, light]));
  });
  addEventListener('afterprint', () => { if (isDark()) drawAll(); });
  return drawAll();
}
