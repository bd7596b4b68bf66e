//! `--plot`: for each run, the stages' times and the heap over time, measured beside forecast.

mod memory;
mod times;

use std::path::Path;

use plotters::backend::DrawingBackend;

use super::Timeline;
use super::table::title;
use crate::cli::plot::canvas::{Anchor, BLACK, Canvas, Drawn, Frame};
use crate::cli::plot::{Format, Picture, bytes};
use crate::cli::whole_file;
use crate::measure::record::Run;

/// Of one run.
const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 330.0;

/// Writes the picture of runs and their last repeats' timelines.
pub fn write(runs: &[(&Run, &Timeline)], path: &Path, force: bool) -> anyhow::Result<()> {
    let picture = bytes(&Runs(runs), Format::of(path)?)?;
    Ok(whole_file::write(path, force, &picture)?)
}

struct Runs<'a>(&'a [(&'a Run, &'a Timeline)]);

impl Picture for Runs<'_> {
    fn size(&self) -> (f64, f64) {
        (WIDTH, HEIGHT * self.0.len() as f64)
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<'_, DB>) -> Drawn<DB> {
        for (i, (run, timeline)) in self.0.iter().enumerate() {
            let top = i as f64 * HEIGHT;
            let heading = title(&run.request, &run.device);
            canvas.text(&heading, (16.0, top + 18.0), 14.0, BLACK, Anchor::Start)?;
            let frame = |left, right| Frame {
                left,
                right,
                top: top + 66.0,
                bottom: top + HEIGHT - 42.0,
            };
            times::draw(canvas, frame(70.0, 400.0), run)?;
            memory::draw(canvas, frame(486.0, WIDTH - 20.0), run, timeline)?;
        }
        Ok(())
    }
}
