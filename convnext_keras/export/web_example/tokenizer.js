// CLIP's tokenizer: byte-pair encoding of lower-case text, by the vocabulary and merges of tokenizer.json.

const WORD = /'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+/giu;

// One printable character for each byte, as GPT-2 chose them: itself, or one from U+0100 on.
function byteSymbols() {
  const symbols = [];
  let others = 0;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    symbols.push(String.fromCodePoint(printable ? byte : 256 + others++));
  }
  return symbols;
}

export class Tokenizer {
  constructor(file, contextLength) {
    const model = file.model;
    this.contextLength = contextLength;
    this.vocabulary = new Map(Object.entries(model.vocab));
    this.ranks = new Map(model.merges.map((pair, rank) => [Array.isArray(pair) ? pair.join(" ") : pair, rank]));
    [this.start, this.end] = file.added_tokens.map((token) => token.id);
    this.wordEnd = model.end_of_word_suffix;
    this.symbols = byteSymbols();
  }

  encodeWord(word) {
    let symbols = Array.from(new TextEncoder().encode(word), (byte) => this.symbols[byte]);
    symbols[symbols.length - 1] += this.wordEnd;
    for (;;) {
      let best = -1, rank = Infinity;
      for (let i = 0; i + 1 < symbols.length; i++) {
        const found = this.ranks.get(`${symbols[i]} ${symbols[i + 1]}`);
        if (found < rank) [best, rank] = [i, found];
      }
      if (best < 0) return symbols.map((symbol) => this.vocabulary.get(symbol));
      const [first, second] = [symbols[best], symbols[best + 1]], merged = [];
      for (let i = 0; i < symbols.length; i++) {
        const joined = symbols[i] === first && symbols[i + 1] === second;
        merged.push(joined ? first + second : symbols[i]);
        if (joined) i++;
      }
      symbols = merged;
    }
  }

  // Token ids of a text: start, words, end, zeros up to the context length.
  encode(text) {
    const words = text.normalize("NFC").replace(/\s+/gu, " ").trim().toLowerCase().match(WORD) ?? [];
    const ids = words.flatMap((word) => this.encodeWord(word)).slice(0, this.contextLength - 2);
    const row = new Int32Array(this.contextLength);
    row.set([this.start, ...ids, this.end]);
    return row;
  }
}
