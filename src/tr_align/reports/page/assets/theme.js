// Runs before the first paint: the remembered theme, so that a dark page does not flash white.
try {
  const theme = localStorage.getItem('tr-align-theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch { /* storage may be forbidden, as for a file:// page; then the system decides */ }
