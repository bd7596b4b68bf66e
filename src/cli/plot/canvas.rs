//! Lines, boxes and text at places in the picture's own units.

use plotters::backend::DrawingBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind};
use plotters::element::{PathElement, Polygon, Rectangle};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont, IntoTextStyle, RGBColor};

/// The name under which the font is registered, which is also what an SVG asks its viewer for.
pub const FONT: &str = "sans-serif";

/// Okabe and Ito's colours, which people of all kinds of sight tell apart, and in print too.
pub const MEASURED: RGBColor = RGBColor(0, 114, 178);
pub const FORECAST: RGBColor = RGBColor(230, 159, 0);
pub const LIGHT: RGBColor = RGBColor(158, 202, 225);
pub const BLACK: RGBColor = RGBColor(0, 0, 0);
pub const GREY: RGBColor = RGBColor(110, 110, 110);
pub const PALE: RGBColor = RGBColor(222, 222, 222);
pub const WEIGHTS: RGBColor = RGBColor(196, 200, 204);

/// Where drawing goes, and how many pixels a unit has.
pub struct Canvas<'a, DB: DrawingBackend> {
    pub area: &'a DrawingArea<DB, Shift>,
    pub scale: f64,
}

/// A failure to draw.
pub type Drawn<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;

/// Which point of a text its place is; its middle line in any case.
#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl<DB: DrawingBackend> Canvas<'_, DB> {
    fn at(&self, (x, y): (f64, f64)) -> (i32, i32) {
        let pixel = |unit: f64| (unit * self.scale).round() as i32;
        (pixel(x), pixel(y))
    }

    /// A line through points.
    pub fn line(&self, points: &[(f64, f64)], width: f64, color: RGBColor) -> Drawn<DB> {
        let points: Vec<_> = points.iter().map(|&p| self.at(p)).collect();
        let width = (width * self.scale).round().max(1.0) as u32;
        self.area
            .draw(&PathElement::new(points, color.stroke_width(width)))
    }

    /// A line from left to right in dashes.
    pub fn dashes(&self, (from, to): (f64, f64), y: f64, color: RGBColor) -> Drawn<DB> {
        const DASH: f64 = 5.0;
        const GAP: f64 = 3.0;
        let mut x = from;
        while x < to {
            self.line(&[(x, y), ((x + DASH).min(to), y)], 1.5, color)?;
            x += DASH + GAP;
        }
        Ok(())
    }

    /// A filled box between two corners.
    pub fn fill(&self, corners: [(f64, f64); 2], color: RGBColor) -> Drawn<DB> {
        let corners = corners.map(|corner| self.at(corner));
        self.area.draw(&Rectangle::new(corners, color.filled()))
    }

    /// A filled outline.
    pub fn shape(&self, points: &[(f64, f64)], color: RGBColor) -> Drawn<DB> {
        let points: Vec<_> = points.iter().map(|&p| self.at(p)).collect();
        self.area.draw(&Polygon::new(points, color.filled()))
    }

    /// How wide a line of text is.
    pub fn width(&self, text: &str, size: f64) -> Result<f64, DrawingAreaErrorKind<DB::ErrorType>> {
        let style = (FONT, size * self.scale).into_text_style(self.area);
        let (width, _) = self.area.estimate_text_size(text, &style)?;
        Ok(f64::from(width) / self.scale)
    }

    /// A line of text.
    pub fn text(
        &self,
        text: &str,
        place: (f64, f64),
        size: f64,
        color: RGBColor,
        anchor: Anchor,
    ) -> Drawn<DB> {
        let h_pos = match anchor {
            Anchor::Start => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::End => HPos::Right,
        };
        let style = (FONT, size * self.scale)
            .into_font()
            .color(&color)
            .pos(Pos::new(h_pos, VPos::Center));
        self.area.draw_text(text, &style, self.at(place))
    }
}

/// Where a diagram's axes stand.
#[derive(Clone, Copy)]
pub struct Frame {
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
}

impl Frame {
    /// The place of shares of both axes, from the lower left.
    pub fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let Frame {
            left,
            right,
            top,
            bottom,
        } = *self;
        (left + x * (right - left), bottom - y * (bottom - top))
    }

    /// Grid lines and labels of the vertical axis, at shares of it; then the axes and the title.
    pub fn axes<DB: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, DB>,
        title: &str,
        ticks: &[(f64, String)],
    ) -> Drawn<DB> {
        for (share, label) in ticks {
            let (x, y) = self.at(0.0, *share);
            canvas.line(&[(x, y), (self.right, y)], 0.5, PALE)?;
            canvas.text(label, (x - 6.0, y), 11.0, BLACK, Anchor::End)?;
        }
        let corner = (self.left, self.bottom);
        let axes = [(self.left, self.top), corner, (self.right, self.bottom)];
        canvas.line(&axes, 1.0, BLACK)?;
        let above = (self.left, self.top - 26.0);
        canvas.text(title, above, 12.0, BLACK, Anchor::Start)
    }

    /// What colours mean, above the diagram on the right.
    pub fn legend<DB: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, DB>,
        entries: &[(&str, RGBColor)],
    ) -> Drawn<DB> {
        let mut x = self.right;
        let y = self.top - 26.0;
        for (words, color) in entries.iter().rev() {
            canvas.text(words, (x, y), 11.0, BLACK, Anchor::End)?;
            x -= canvas.width(words, 11.0)? + 5.0;
            canvas.fill([(x - 10.0, y - 4.0), (x, y + 4.0)], *color)?;
            x -= 24.0;
        }
        Ok(())
    }
}

/// Round numbers from 0 to `last`: a step of 1, 2 or 5 times a power of `base`, some five of them.
pub fn round_numbers(last: f64, base: f64) -> Vec<f64> {
    const WANTED: f64 = 5.0;
    let rough = last / WANTED;
    let power = base.powf(rough.log(base).floor());
    let factors: &[f64] = match base as usize {
        2 => &[1.0, 2.0],
        _ => &[1.0, 2.0, 5.0, 10.0],
    };
    let steps = factors.iter().map(|factor| factor * power);
    let step = steps
        .clone()
        .find(|&step| step >= rough)
        .unwrap_or(base * power);
    (0..)
        .map(|i| f64::from(i) * step)
        .take_while(|&number| number <= last)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_numbers() {
        assert_eq!(round_numbers(9.0, 10.0), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(round_numbers(100.0, 10.0).len(), 6);
        assert_eq!(round_numbers(300.0, 2.0), [0.0, 64.0, 128.0, 192.0, 256.0]);
    }
}
