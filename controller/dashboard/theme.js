// Loaded before the page is drawn, so that a chosen theme does not flash the other one.
try {
  const chosen = localStorage.getItem('theme');
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset['theme'] = chosen;
} catch {
  // a browser that keeps nothing follows the system
}
