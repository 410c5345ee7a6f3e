"""The style of a page, for light and dark."""

COLORS = {
    "light": ("#2a78d6", "#d9480f", "#0f8a63", "#8a5cd1", "#b8860b", "#c2255c", "#5c6b2f", "#0b7285"),
    "dark": ("#5b9df0", "#ff8a5c", "#3fbf93", "#b294f0", "#e0b040", "#f07ba8", "#a9bb6a", "#4cc2d6"),
}
"""Of lines: they differ in hue and lightness, and stand out from both grounds."""

_LIGHT = "--ground:#fff;--ink:#1c1d21;--faint:#646873;--rule:#dfe1e6;--panel:#f6f7f9;--bound:#7b7f8a"
_DARK = "--ground:#16181d;--ink:#e7e9ee;--faint:#9aa0ad;--rule:#343842;--panel:#1f2229;--bound:#a0a5b1"


def _variables(mode: str, rest: str) -> str:
    return ";".join(f"--c{place}:{color}" for place, color in enumerate(COLORS[mode])) + ";" + rest


STYLE = (
    f":root{{color-scheme:light dark;{_variables('light', _LIGHT)}}}"
    f"@media(prefers-color-scheme:dark){{:root{{{_variables('dark', _DARK)}}}}}"
    + "".join(f".c{place}{{--own:var(--c{place})}}" for place in range(len(COLORS["light"])))
    + """
.bound{--own:var(--bound)}
*{box-sizing:border-box}
body{font:15px/1.55 system-ui,sans-serif;background:var(--ground);color:var(--ink);max-width:76rem;margin:0 auto;
padding:2rem 1.2rem 4rem}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .2rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2.4rem 0 .6rem}
.under{color:var(--faint);margin:0 0 1.4rem}
.says{font-size:1.12rem;max-width:62rem;margin:0 0 1.6rem}
.tiles{display:flex;flex-wrap:wrap;gap:.8rem;margin:0 0 1rem}
.tile{background:var(--panel);border:1px solid var(--rule);border-radius:8px;padding:.7rem 1rem;min-width:9.5rem;flex:1}
.tile b{display:block;font-size:1.55rem;line-height:1.2;font-weight:600;font-variant-numeric:tabular-nums}
.tile span{color:var(--faint);font-size:.86rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,30rem),1fr));gap:1.6rem 2rem}
figure{margin:0}
figcaption{font-weight:600}
.keys{display:flex;flex-wrap:wrap;gap:.1rem .9rem;font-size:.85rem;color:var(--faint);min-height:1.5rem}
.keys label{cursor:pointer;white-space:nowrap}
.keys label:has(input:not(:checked)){opacity:.45}
.keys input{position:absolute;opacity:0}
.keys input:focus-visible+svg{outline:2px solid var(--c0)}
.key{width:18px;height:8px;margin-right:.35rem}
.plot{width:100%;height:auto;display:block}
svg text{font:12px system-ui,sans-serif;fill:var(--faint)}
svg path{fill:none;stroke:var(--own);stroke-width:2;stroke-linejoin:round}
svg circle{fill:var(--own);stroke:var(--ground);stroke-width:1.5}
svg path.bound{stroke-dasharray:5 4;stroke-width:1.5}
svg path.dashed{stroke-dasharray:8 3}
svg path.grid{stroke:var(--rule);stroke-width:1}
svg path.axis,svg path.cross{stroke:var(--faint);stroke-width:1}
.at rect{fill:transparent}
.at .tip{visibility:hidden;pointer-events:none}
.at:hover .tip{visibility:visible}
.at .tip rect.box{fill:var(--panel);stroke:var(--rule)}
.tip text{fill:var(--ink);font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .9rem;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th{font-weight:600;color:var(--faint)}
td:first-child,th:first-child,td.text,th.text{text-align:left}
tr.chosen td{font-weight:600}
td.bar{--in:color-mix(in srgb,var(--c0) 26%,transparent);
background:linear-gradient(90deg,var(--in) var(--share),transparent var(--share))}
td.other{background:color-mix(in srgb,var(--c1) 14%,transparent)}
details{margin-top:2rem}
summary{cursor:pointer;font-weight:600}
@media print{.tip{display:none}details{display:block}}
"""
)
