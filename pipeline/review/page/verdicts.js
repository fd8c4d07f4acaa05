// The decisions: their keys, words and signs.

export const SIGNS = {
  accept: { key: "a", word: "Accept", sign: "✓", hint: "The mask is good" },
  refuse: { key: "r", word: "Refuse", sign: "✕", hint: "The image or its mask is of no use" },
  wrong_tag: { key: "w", word: "Wrong tag", sign: "≠", hint: "A tag names what is not there" },
  missing_tag: { key: "m", word: "Missing tag", sign: "+", hint: "Something is there that no tag names" },
  redraw: { key: "d", word: "Redraw", sign: "✎", hint: "The tags are right, the mask must be drawn by hand" },
};

export const decisionOfKey = (key) => Object.keys(SIGNS).find((name) => SIGNS[name].key === key);
