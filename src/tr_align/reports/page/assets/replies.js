// The reply browser: which prompts match, which one is shown, and the address that says so.
const [TEXT, WORDS, KL, HC, AXES, VS_SFT, VS_BASE] = [0, 1, 2, 3, 4, 5, 6];
const FILTERS = {
  all: () => true,
  tr: (reply) => reply[VS_BASE] === 'win',
  base: (reply) => reply[VS_BASE] === 'lose',
  flipped: (reply) => reply[VS_SFT] === 'flipped' || reply[VS_BASE] === 'flipped',
};
const VERDICTS = {
  win: 'wins against', lose: 'loses to', tie: 'ties with', flipped: 'judge flipped on', unread: 'judge unreadable on',
};

function startReplies() {
  const section = find('#replies');
  const data = section && stored('replies-data');
  if (!data || !data.prompts.length) return;
  const [filters, search, chooser, select, steps, where, shown] = [
    findAll('[data-filter]', section), find('input[type=search]', section), find('.methods', section),
    find('select', section), findAll('.step', section), find('.where', section), find('.shown', section)];
  const boxes = findAll('input[type=checkbox]', chooser);
  const names = data.cells.map((cell) => cell.cell);
  const texts = data.prompts.map(() => null);
  const state = {filter: 'all', query: '', methods: new Set(names), id: null};
  let matching = [];

  const replies = (place) => data.prompts[place][2]
    .map((reply, cell) => [data.cells[cell], reply])
    .filter(([cell, reply]) => reply && state.methods.has(cell.cell));

  function holds(place, query) {
    if (!query) return true;
    // lower case once for each text, for it is asked at every key
    texts[place] ??= [data.prompts[place][1], ...data.prompts[place][2].map((reply) => reply?.[TEXT] ?? '')]
      .map((text) => text.toLowerCase());
    const [prompt, ...said] = texts[place];
    return prompt.includes(query)
      || said.some((text, cell) => state.methods.has(names[cell]) && text.includes(query));
  }

  function match() {
    const query = state.query.trim().toLowerCase();
    const found = data.prompts.map((_, place) => place).filter((place) => holds(place, query));
    for (const button of filters) {
      const passes = (place) => button.dataset.filter === 'all'
        || replies(place).some(([, reply]) => FILTERS[button.dataset.filter](reply));
      const places = found.filter(passes);
      find('.count', button).textContent = places.length;
      button.setAttribute('aria-pressed', button.dataset.filter === state.filter);
      if (button.dataset.filter === state.filter) matching = places;
    }
  }

  function card([cell, reply]) {
    const met = [[reply[VS_SFT], 'SFT'], [reply[VS_BASE], cell.base]]
      .filter(([verdict]) => verdict)
      .map(([verdict, other]) => element('li', {class: verdict}, `${VERDICTS[verdict] ?? verdict} ${other}`));
    const facts = [`KL ${fixed(reply[KL], 1)} nats`, `${reply[WORDS]} words`];
    const axes = reply[AXES]
      ? data.axes.map((axis, place) => element('span', {}, `${axis} ${fixed(reply[AXES][place], 1)}`))
      : ['no readable rating'];
    const empty = !reply[TEXT].trim();
    const kind = `${cell.loss ?? 'sft'} ${cell.update}`;
    return element('article', {class: `reply ${kind}`},
      element('h3', {}, element('span', {class: `key ${kind}`}, cell.name),
        element('span', {class: 'hc num'}, 'HC ', element('strong', {}, fixed(reply[HC], 1)))),
      element('p', {class: 'facts'}, facts.join(' · ')),
      axes.length ? element('p', {class: 'facts axes'}, ...axes) : null,
      met.length ? element('ul', {class: 'met'}, ...met) : null,
      element('div', {class: empty ? 'said empty' : 'said', dir: 'auto'}, empty ? 'empty reply' : reply[TEXT]));
  }

  function show() {
    const at = matching.findIndex((place) => data.prompts[place][0] === state.id);
    steps.forEach((button) => { button.disabled = matching.length < 2; });
    if (at < 0) {
      where.textContent = 'none';
      shown.replaceChildren(element('p', {class: 'note'}, 'No prompt matches this filter, search and choice of methods.'));
      return;
    }
    where.textContent = `${at + 1} of ${matching.length}`;
    select.selectedIndex = at;
    const cards = replies(matching[at]).map(card);
    shown.replaceChildren(
      element('p', {class: 'prompt', dir: 'auto'}, data.prompts[matching[at]][1]),
      cards.length ? element('div', {class: 'cards'}, ...cards)
        : element('p', {class: 'note'}, 'None of the chosen methods replied to this prompt.'));
  }

  // After any change of filter, search or methods; the prompt stays where it still matches.
  function update() {
    match();
    if (!matching.some((place) => data.prompts[place][0] === state.id)) {
      state.id = matching.length ? data.prompts[matching[0]][0] : null;
    }
    select.replaceChildren(...matching.map((place) => {
      const text = data.prompts[place][1].replace(/\s+/g, ' ').trim();
      return element('option', {}, [...text].slice(0, 90).join(''));
    }));
    select.disabled = !matching.length;
    boxes.forEach((box) => { box.checked = state.methods.has(box.value); });
    find('.chosen', chooser).textContent = state.methods.size === names.length ? 'all' : `${state.methods.size} of ${names.length}`;
    show();
  }

  function remember() {
    const parts = new URLSearchParams();
    if (state.id !== null) parts.set('prompt', state.id);
    if (state.filter !== 'all') parts.set('filter', state.filter);
    if (state.query) parts.set('search', state.query);
    if (state.methods.size < names.length) parts.set('methods', [...state.methods].join(','));
    history.replaceState(null, '', `#replies?${parts}`);
  }

  function recall() {
    const [name, query] = [location.hash.slice(1).split('?')[0], location.hash.split('?').slice(1).join('?')];
    if (name !== 'replies' || !query) return false;
    const parts = new URLSearchParams(query);
    const methods = (parts.get('methods') ?? '').split(',').filter((cell) => names.includes(cell));
    state.filter = Object.hasOwn(FILTERS, parts.get('filter')) ? parts.get('filter') : 'all';
    state.query = parts.get('search') ?? '';
    state.methods = new Set(parts.has('methods') ? methods : names);
    state.id = parts.get('prompt');
    search.value = state.query;
    return true;
  }

  function changed(values) {
    Object.assign(state, values);
    update();
    remember();
  }

  function step(by) {
    if (!matching.length) return;
    const at = matching.findIndex((place) => data.prompts[place][0] === state.id);
    state.id = data.prompts[matching[(at + by + matching.length) % matching.length]][0];
    show();
    remember();
  }

  filters.forEach((button) => button.addEventListener('click', () => changed({filter: button.dataset.filter})));
  steps.forEach((button) => button.addEventListener('click', () => step(Number(button.dataset.step))));
  select.addEventListener('change', () => {
    state.id = data.prompts[matching[select.selectedIndex]][0];
    show();
    remember();
  });
  let waiting;
  search.addEventListener('input', () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => changed({query: search.value}), 120);
  });
  boxes.forEach((box) => box.addEventListener('change', () => {
    changed({methods: new Set(boxes.filter((item) => item.checked).map((item) => item.value))});
  }));
  find('.all', chooser).addEventListener('click', () => changed({methods: new Set(names)}));
  section.addEventListener('keydown', (event) => {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    // in the search field the arrows move the cursor
    if (!by || event.target === search || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    step(by);
  });
  addEventListener('hashchange', () => {
    if (recall()) {
      update();
      section.scrollIntoView();
    }
  });

  find('.browser', section).hidden = false;
  const shared = recall();
  update();
  return shared ? section : null;
}

function fixed(value, decimals) {
  return value === null || value === undefined ? '–' : value.toFixed(decimals);
}
