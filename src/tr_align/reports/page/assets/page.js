// Starts everything: theme, contents, replies, figures.
const THEME = 'tr-align-theme';

function startTheme() {
  const choice = find('.theme');
  const root = document.documentElement;
  find(`input[value="${root.dataset.theme ?? 'system'}"]`, choice).checked = true;
  choice.hidden = false;
  choice.addEventListener('change', (event) => {
    const chosen = event.target.value;
    if (chosen === 'system') delete root.dataset.theme;
    else root.dataset.theme = chosen;
    try {
      localStorage.setItem(THEME, chosen);
    } catch { /* not remembered, where storage is forbidden */ }
    drawAll();
  });
}

function startContents() {
  const menu = find('.menu');
  menu.addEventListener('click', (event) => { if (event.target.closest('a')) menu.open = false; });
  document.addEventListener('click', (event) => { if (!menu.contains(event.target)) menu.open = false; });
  menu.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape') return;
    menu.open = false;
    find('summary', menu).focus();
  });
}

// A link to a folded part opens it.
function unfold() {
  const part = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (part instanceof HTMLDetailsElement) part.open = true;
}

startTheme();
startContents();
const shared = startReplies();
unfold();
addEventListener('hashchange', unfold);
addEventListener('beforeprint', () => findAll('main details:not(.methods)').forEach((item) => { item.open = true; }));
let moved = false;
['wheel', 'touchmove', 'keydown', 'pointerdown'].forEach((kind) => {
  addEventListener(kind, () => { moved = true; }, {once: true, passive: true});
});
startFigures().then(() => {
  // the figures above have grown since the address was followed; a reader who has moved on is left alone
  const part = shared ?? (location.hash.length > 1 && document.getElementById(location.hash.slice(1)));
  if (part && !moved) part.scrollIntoView({behavior: 'instant'});
});
