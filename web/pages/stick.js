/** A list that stays at its newest line, also when it gets smaller, until its reader scrolls up. */

const NEAR_PX = 56;

/** @param {HTMLElement} list @returns {() => void} goes to the end, wherever the reader was */
export function stickToEnd(list) {
  let following = true;
  const toEnd = () => {
    following = true;
    list.scrollTop = list.scrollHeight;
  };
  // Whoever scrolled up to read is left in peace.
  list.addEventListener('scroll', () => { following = list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_PX; }, {passive: true});
  const follow = () => following && toEnd();
  new ResizeObserver(follow).observe(list);
  new MutationObserver(follow).observe(list, {childList: true});
  return toEnd;
}
