"""The report's charts: pure functions from plain values to inline SVG.

Each chart is drawn at its natural size, with text of 10 to 12 pixels, and never stretched: where a page on a
phone needs another shape, the function takes a width (or an orientation) and is called twice. Shapes carry
classes instead of colours, tooltips are `<title>` elements, and shapes that belong to a trial carry its id in
`data-trial`, so that the page's script can highlight it everywhere at once.
"""
