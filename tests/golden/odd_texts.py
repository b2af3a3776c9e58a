"""Two hundred texts that are hard on tokenizers."""

import numpy as np

_BY_HAND = [
    "",
    " ",
    "\t\n\r\x0b\x0c",
    "\u3000\u00a0\u2003",
    "a",
    "A cat.",
    "A  cat   sits\n\non\tthe  mat ",
    "  leading and trailing  ",
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
    "The quick brown fox's mat; they're here, I'd say, we've seen 'em, y'all'll.",
    "naïve café résumé coöperate Ærøskøbing Straße İstanbul ıI",
    "nai\u0308ve cafe\u0301 re\u0301sume\u0301",
    "ﬁne ﬂow ﬃ ﷺ ㍍ ㎏ № ½ ① Ⅷ ｆｕｌｌｗｉｄｔｈ ｶﾀｶﾅ",
    "一只猫坐在红色的垫子上。",
    "灰色の兎が、草の上で欠伸をする！",
    "고양이가 빨간 매트 위에 앉아 있다",
    "Быстрая коричневая лиса прыгает через ленивую собаку",
    "Η γρήγορη καφέ αλεπού",
    "القطة تجلس على السجادة",
    "החתול יושב על המחצלת",
    "बिल्ली लाल चटाई पर बैठी है",
    "แมวนั่งบนเสื่อสีแดง",
    "mixed 中文 and English 和 more ไทย हिन्दी text",
    "🐇",
    "🐇🐇🐇 a rabbit 🐇",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 flag 👍🏽 skin 🇯🇵",
    "☃ ❤ ❤️ ™ © ® € £ ¥ ₿",
    "emoji😀inside😀words",
    "\x00\x01\x02 nul and friends \x7f\x80\x9f",
    "soft\u00adhyphen zero\u200bwidth\u200djoin\u2060er \ufeffbom",
    "\u202eright to left override\u202c",
    "\u0301\u0302 marks alone",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞",
    "&lt;b&gt;bold&lt;/b&gt; &amp;amp; &amp;lt; &eacute; &#233; &#x1F407; &nope;",
    "<b>escaped &amp;lt;twice&amp;gt;</b> and &amp;amp;lt; thrice",
    "â€œmojibakeâ€\x9d cafÃ© naÃ¯ve",
    "“curly” ‘quotes’ — dashes – and … dots",
    "1 12 123 1234567890 3.14159 1,000,000 -42 1e-5 0x1F",
    "2026-11-21 17:22:56 50% $5 #hash @name a_b a-b a/b\\c",
    "http://example.org/path?query=1&other=2#part",
    "def f(x): return x**2  # code",
    "!!!???...,,,;;;:::",
    "(((nested [brackets] {here})))",
    "don't can't won't 'quoted' \"double\" `back`",
    "word" * 40,
    "a" * 300,
    "猫" * 100,
    "🐇" * 60,
    "the cat sits " * 200,
    "一只猫坐在垫子上" * 120,
    "ab" * 2000,
    "x " * 1500,
    "\n" * 500,
    "the lazy\x00dog",
    "tab\tseparated\tvalues",
    "line\u2028separator\u2029paragraph\x85next",
    "ＡＢＣ　１２３",
    "ǅ ǆ Ǆ ß ẞ ſ K Å",
    "ΑΒΓ ΣΑΣ ςσ",
    "\U0001f9ff\U0001fae0 \U00020000\U0002a6d6 \U000e0041",
    "\ue000\uf8ff private \uffff\ufffe\ufffd",
    "▁the ▁cat ▁▁ ▁",
    "##ing ##s un##able",
    "the</w> cat</w>",
    "Ġthe Ġcat",
    "</s> ends <pad> and <unk> do not",
    "fill <extra_id_0> in",
    "<|endoftext|> the cat <|startoftext|>",
    "[CLS] the [MASK] sits [SEP] [PAD]",
]

_RANGES = (
    (0x20, 0x7E),
    (0x20, 0x7E),
    (0x00, 0x24F),
    (0x300, 0x36F),
    (0x370, 0x5FF),
    (0x600, 0x97F),
    (0x1E00, 0x22FF),
    (0x3000, 0x30FF),
    (0x4E00, 0x4EFF),
    (0xAC00, 0xACFF),
    (0xFB00, 0xFFEF),
    (0x1F300, 0x1F64F),
)
_WORDS = ("the", "a", "cat", "lazy", "fox", "sits", "jumps", "猫", "草", "🐇", "don't")


def odd_texts(count: int = 200) -> list[str]:
    """The texts; what is not written by hand is drawn by a frozen stream."""
    random = np.random.RandomState(7)
    texts = list(_BY_HAND)
    while len(texts) < count:
        pieces = []
        for _ in range(random.randint(1, 12)):
            if random.rand() < 0.6:
                pieces.append(_WORDS[random.randint(len(_WORDS))])
            else:
                low, high = _RANGES[random.randint(len(_RANGES))]
                length = random.randint(1, 6)
                pieces.append("".join(map(chr, random.randint(low, high + 1, length))))
        spaces = (" ", " ", " ", "", "  ", "\n")
        joined = "".join(p + spaces[random.randint(len(spaces))] for p in pieces)
        joined *= random.randint(20, 60) if random.rand() < 0.1 else 1
        if joined not in texts:
            texts.append(joined)
    return texts[:count]
