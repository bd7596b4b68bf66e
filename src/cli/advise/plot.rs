//! `--plot`: dollars an image against the latency of one image.

use plotters::backend::DrawingBackend;

use crate::claims::advise::{Advice, Arithmetic, Offer};
use crate::cli::plot::Picture;
use crate::cli::plot::canvas::{
    Anchor, BLACK, Canvas, Drawn, FORECAST, Frame, GREY, MEASURED, PALE,
};
use crate::cli::units::time;

/// Offers that satisfy the workload, both axes logarithmic.
pub struct Costs<'a>(pub &'a Advice);

/// A logarithmic axis around its numbers.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// With a fifth beyond on both sides.
    fn around(numbers: impl Iterator<Item = f64>) -> Self {
        let (low, high) = numbers.fold((f64::INFINITY, 0f64), |(low, high), number| {
            (low.min(number), high.max(number))
        });
        Self {
            low: low / 1.2,
            high: high * 1.2,
        }
    }

    /// Of a number: 0 at the low end, 1 at the high one.
    fn share(&self, number: f64) -> f64 {
        (number / self.low).ln() / (self.high / self.low).ln()
    }

    /// 1, 2 and 5 times powers of ten.
    fn ticks(&self) -> Vec<f64> {
        let power = |number: f64| number.log10().floor() as i32;
        (power(self.low)..=power(self.high))
            .flat_map(|power| [1.0, 2.0, 5.0].map(|factor| factor * 10f64.powi(power)))
            .filter(|tick| (self.low..=self.high).contains(tick))
            .collect()
    }
}

impl Picture for Costs<'_> {
    fn size(&self) -> (f64, f64) {
        (760.0, 420.0)
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<'_, DB>) -> Drawn<DB> {
        let offers = || self.0.offers.iter().filter(|offer| offer.satisfies);
        let dollars = |offer: &Offer| 1e3 * offer.dollars_per_image;
        let across = Axis::around(offers().map(|offer| offer.latency_s));
        let up = Axis::around(offers().map(dollars));
        let frame = Frame {
            left: 70.0,
            right: 700.0,
            top: 66.0,
            bottom: 372.0,
        };
        let ticks: Vec<_> = up
            .ticks()
            .into_iter()
            .map(|tick| (up.share(tick), format!("${tick:.2}")))
            .collect();
        frame.axes(
            canvas,
            "1,000 images at full load (forecast), logarithmic",
            &ticks,
        )?;
        for tick in across.ticks() {
            let (x, y) = frame.at(across.share(tick), 0.0);
            canvas.line(&[(x, frame.top), (x, y)], 0.5, PALE)?;
            canvas.text(
                &time(1e3 * tick),
                (x, y + 13.0),
                11.0,
                BLACK,
                Anchor::Middle,
            )?;
        }
        let (half, w8a8) = (MEASURED, FORECAST);
        frame.legend(canvas, &[("half precision", half), ("w8a8", w8a8)])?;
        let place = |offer: &Offer| {
            let (x, y) = frame.at(across.share(offer.latency_s), up.share(dollars(offer)));
            (x.round(), y.round())
        };
        for offer in offers() {
            let here = || offers().filter(|other| place(other) == place(offer));
            if here()
                .next()
                .is_some_and(|first| first.device.name != offer.device.name)
            {
                continue; // named already, beside its equal
            }
            let (x, y) = place(offer);
            let color = match offer.precision {
                Arithmetic::Half => half,
                Arithmetic::W8a8 => w8a8,
            };
            canvas.fill([(x - 4.0, y - 4.0), (x + 4.0, y + 4.0)], color)?;
            let names: Vec<&str> = here().map(|other| other.device.name.as_ref()).collect();
            let names = names.join(", ");
            canvas.text(&names, (x + 8.0, y), 10.0, GREY, Anchor::Start)?;
        }
        let (middle, bottom) = frame.at(0.5, 0.0);
        let words = "latency of one image alone (forecast), logarithmic";
        canvas.text(words, (middle, bottom + 30.0), 11.0, BLACK, Anchor::Middle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_round_ticks_inside() {
        let axis = Axis::around([0.6, 5.0].into_iter());
        assert_eq!(axis.ticks(), [0.5, 1.0, 2.0, 5.0]);
        assert_eq!((axis.share(0.5), axis.share(6.0)), (0.0, 1.0));
    }
}
