//! The report's plots.

use plotters::backend::DrawingBackend;
use plotters::style::RGBColor;

use crate::claims::advise::calibration::calibrations;
use crate::claims::advise::{Workload, advise};
use crate::claims::figure::{Basis, Bearing, Figure};
use crate::claims::grounds::{Grounds, HALF, INT8, peak_gb};
use crate::claims::{Checked, Point};
use crate::cli::advise::plot::Costs;
use crate::cli::plot::canvas::{
    Anchor, BLACK, Canvas, Drawn, FORECAST, Frame, GREY, LIGHT, MEASURED, PALE, round_numbers,
};
use crate::cli::plot::{Format, Picture, bytes};

/// A plot of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plot {
    /// Figures over what is stated.
    Differences,
    /// Memory by batch: W3, W5 and W7.
    Memory,
    /// Cost against latency: W9.
    Costs,
}

impl Plot {
    /// Those that have something to show of these claims.
    pub fn of(checked: &[Checked]) -> Vec<Self> {
        let is_among = |ids: &[&str]| checked.iter().any(|c| ids.contains(&c.claim.id));
        let shows = |plot: &Self| match plot {
            Self::Differences => !Differences::of(checked).rows.is_empty(),
            Self::Memory => is_among(&["W3", "W5", "W7"]),
            Self::Costs => is_among(&["W9"]),
        };
        let all = [Self::Differences, Self::Memory, Self::Costs];
        all.into_iter().filter(shows).collect()
    }

    /// The file's name.
    pub fn file(self) -> &'static str {
        match self {
            Self::Differences => "differences.svg",
            Self::Memory => "batch-memory.svg",
            Self::Costs => "cost-latency.svg",
        }
    }

    /// What it shows.
    pub fn title(self) -> &'static str {
        match self {
            Self::Differences => "Each figure that compares over the stated number",
            Self::Memory => "Memory by batch",
            Self::Costs => "Cost against latency",
        }
    }

    /// The SVG file.
    pub fn bytes(self, checked: &[Checked], grounds: &Grounds) -> anyhow::Result<Vec<u8>> {
        Ok(match self {
            Self::Differences => bytes(&Differences::of(checked), Format::Svg)?,
            Self::Memory => bytes(&Memory::of(grounds)?, Format::Svg)?,
            Self::Costs => {
                let advice = advise(grounds.model(), &Workload::default(), &calibrations()?)?;
                bytes(&Costs(&advice), Format::Svg)?
            }
        })
    }
}

/// Figures that compare with a stated number, as multiples of it.
struct Differences<'a> {
    rows: Vec<(String, Vec<(&'a Figure, f64)>)>,
    /// Those that no logarithm has.
    left_out: usize,
}

/// What lies beyond a hundredth or a hundredfold is drawn at the edge.
const POWERS: f64 = 2.0;
const ROW: f64 = 20.0;
const HEAD: f64 = 60.0;
const FOOT: f64 = 40.0;
/// Okabe and Ito's green.
const ARITHMETIC: RGBColor = RGBColor(0, 158, 115);

impl<'a> Differences<'a> {
    fn of(checked: &'a [Checked]) -> Self {
        let rows = checked.iter().flat_map(|claim| {
            let points = claim.points.iter();
            points.filter_map(|point| Some((claim.claim.id, point.stated?, point)))
        });
        let rows = rows.map(|(id, stated, point): (_, _, &Point)| {
            let label = format!("{id}  {}, {}", point.what, stated.words());
            let figures = point.figures.iter().filter(|f| f.is_like(stated));
            let figures = figures.map(|f| (f, f.value / stated.value()));
            (label, figures.collect())
        });
        let mut rows: Vec<(String, Vec<(&Figure, f64)>)> = rows.collect();
        let count = |rows: &[(_, Vec<_>)]| rows.iter().map(|(_, f)| f.len()).sum::<usize>();
        let all = count(&rows);
        for (_, figures) in &mut rows {
            figures.retain(|(_, ratio)| *ratio > 0.0);
            figures.sort_by_key(|(figure, _)| figure.bearing != Bearing::Comparable); // what judges on top
        }
        let left_out = all - count(&rows);
        rows.retain(|(_, figures)| !figures.is_empty());
        Self { rows, left_out }
    }
}

fn color(basis: &Basis) -> RGBColor {
    match basis {
        Basis::Arithmetic | Basis::Counted => ARITHMETIC,
        Basis::Forecast { .. } | Basis::Plan => FORECAST,
        Basis::Measured { .. } => MEASURED,
        Basis::Published { .. } | Basis::Computed { .. } => GREY,
    }
}

impl Picture for Differences<'_> {
    fn size(&self) -> (f64, f64) {
        (920.0, HEAD + FOOT + ROW * self.rows.len() as f64)
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<'_, DB>) -> Drawn<DB> {
        let (width, height) = self.size();
        let frame = Frame {
            left: 430.0,
            right: width - 24.0,
            top: HEAD,
            bottom: height - FOOT,
        };
        let share = |ratio: f64| (ratio.log10().clamp(-POWERS, POWERS) + POWERS) / (2.0 * POWERS);
        let left_out = match self.left_out {
            0 => String::new(),
            n => format!("; {n} not above 0 left out"),
        };
        let title = format!("figure over stated number; filled if it judges{left_out}");
        canvas.text(&title, (16.0, HEAD - 34.0), 14.0, BLACK, Anchor::Start)?;
        for power in -POWERS as i32..=POWERS as i32 {
            let ratio = 10f64.powi(power);
            let (x, bottom) = frame.at(share(ratio), 0.0);
            let grid = if power == 0 { BLACK } else { PALE };
            canvas.line(&[(x, frame.top), (x, bottom)], 1.0, grid)?;
            let label = format!("{ratio} ×");
            canvas.text(&label, (x, bottom + 14.0), 11.0, BLACK, Anchor::Middle)?;
        }
        for (i, (label, figures)) in self.rows.iter().enumerate() {
            let y = frame.top + (i as f64 + 0.5) * ROW;
            canvas.text(label, (16.0, y), 11.0, BLACK, Anchor::Start)?;
            canvas.line(&[(frame.left, y), (frame.right, y)], 0.5, PALE)?;
            for (figure, ratio) in figures {
                let (x, _) = frame.at(share(*ratio), 0.0);
                let color = color(&figure.basis);
                canvas.fill([(x - 4.0, y - 5.0), (x + 4.0, y + 5.0)], color)?;
                if figure.bearing == Bearing::Comparable {
                    let white = RGBColor(255, 255, 255);
                    canvas.fill([(x - 2.5, y - 3.5), (x + 2.5, y + 3.5)], white)?;
                }
            }
        }
        frame.legend(
            canvas,
            &[
                ("arithmetic, count", ARITHMETIC),
                ("forecast, plan", FORECAST),
                ("published", GREY),
                ("measured", MEASURED),
            ],
        )
    }
}

/// Memory by batch, in 10⁹ bytes.
struct Line {
    name: &'static str,
    color: RGBColor,
    points: Vec<(usize, f64)>,
}

/// Forecast memory of SDXL by batch on the white paper's device.
struct Memory {
    lines: [Line; 2],
    most_gb: f64,
}

impl Memory {
    fn of(grounds: &Grounds) -> crate::error::Result<Self> {
        let line = |name, color, precision| {
            let batches = [1, 4, 8, 16, 32, 64].into_iter();
            let points = batches.map(|batch| {
                let gb = peak_gb(&grounds.sdxl(1, batch, precision)?);
                Ok((batch, gb))
            });
            let points = points.collect::<crate::error::Result<Vec<_>>>()?;
            Ok::<_, crate::error::Error>(Line {
                name,
                color,
                points,
            })
        };
        Ok(Self {
            lines: [
                line("half precision", MEASURED, HALF)?,
                line("int8 UNet", LIGHT, INT8)?,
            ],
            most_gb: grounds.h800.memory_bytes as f64 / 1e9,
        })
    }
}

impl Picture for Memory {
    fn size(&self) -> (f64, f64) {
        (620.0, 330.0)
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<'_, DB>) -> Drawn<DB> {
        const LAST: f64 = 64.0;
        const W5_GB: f64 = 12.4;
        let frame = Frame {
            left: 70.0,
            right: 590.0,
            top: 66.0,
            bottom: 282.0,
        };
        let top = self.most_gb * 1.1;
        let tick = |gb: f64| (gb / top, format!("{gb} GB"));
        let ticks: Vec<_> = round_numbers(top, 10.0).into_iter().map(tick).collect();
        frame.axes(canvas, "peak memory, 1024x1024 (plan, GPU path)", &ticks)?;
        let names = self.lines.each_ref().map(|line| (line.name, line.color));
        frame.legend(canvas, &names)?;
        for (words, gb) in [
            ("an H800's memory", self.most_gb),
            ("W5: 12.4 GB in 8 bits", W5_GB),
        ] {
            let (x, y) = frame.at(1.0, gb / top);
            canvas.dashes((frame.left, x), y, FORECAST)?;
            canvas.text(words, (x, y - 8.0), 10.0, GREY, Anchor::End)?;
        }
        for Line { color, points, .. } in &self.lines {
            let places: Vec<_> = points
                .iter()
                .map(|&(batch, gb)| frame.at(batch as f64 / LAST, gb / top))
                .collect();
            canvas.line(&places, 2.0, *color)?;
            for ((x, y), (batch, _)) in places.into_iter().zip(points) {
                canvas.fill([(x - 3.0, y - 3.0), (x + 3.0, y + 3.0)], *color)?;
                let label = batch.to_string();
                let below = (x, frame.bottom + 13.0);
                canvas.text(&label, below, 11.0, BLACK, Anchor::Middle)?;
            }
        }
        let (middle, bottom) = frame.at(0.5, 0.0);
        let words = "images at once; W7: 4 to 64";
        canvas.text(words, (middle, bottom + 29.0), 11.0, BLACK, Anchor::Middle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::LEDGER;
    use crate::claims::Missing;
    use crate::claims::figure::{Stated, Unit};

    #[test]
    fn only_what_compares_is_drawn_and_nothing_without_a_logarithm() {
        let ratio = |value| Figure::arithmetic("it", value, Unit::Ratio);
        let figures = vec![
            ratio(4.0).bears(Bearing::Same),
            ratio(2.0).bears(Bearing::Comparable),
            ratio(-2.0).bears(Bearing::Comparable),
            ratio(3.0),
        ];
        let stated = Stated {
            text: "4",
            unit: Unit::Ratio,
        };
        let missing = || Missing {
            why: "",
            measure: "",
        };
        let checked = [Checked {
            claim: &LEDGER[3],
            points: vec![
                Point::new("", Some(stated), figures, missing()),
                Point::new("", Some(stated), vec![ratio(3.0)], missing()),
            ],
        }];
        let drawn = Differences::of(&checked);
        assert_eq!((drawn.rows.len(), drawn.left_out), (1, 1));
        let ratios: Vec<f64> = drawn.rows[0].1.iter().map(|(_, ratio)| *ratio).collect();
        assert_eq!(ratios, [0.5, 1.0], "what judges is drawn last");
        assert_eq!(Plot::of(&checked), [Plot::Differences]);
    }
}
