//! W6: what one kernel for the UNet's and CLIP's computation could spare.

use crate::claims::figure::{Bearing, Figure, Stated, Unit};
use crate::claims::grounds::{Grounds, HALF, bound_share};
use crate::claims::source::Sourced;
use crate::claims::{Missing, Point};
use crate::error::Result;
use crate::measure::op::{Op, Work};
use crate::observe::Stage;

const KERNELS: Stated = Stated {
    text: "1",
    unit: Unit::Kernels,
};
/// Text positions of a prompt: keys of the attention that reads it.
const TEXT: usize = 77;
const STEPS: usize = 30;

/// Whether it is attention over the text: its sizes are heads, queries, keys, width of a head.
fn is_cross_attention(work: &Work) -> bool {
    let [_, queries, keys, _] = work.sizes;
    work.op == Op::Attention && keys == TEXT && queries != TEXT
}

/// Kernels merged, and shares of the time that they could spare.
pub fn w6(grounds: &Grounds) -> Result<Vec<Point>> {
    let forecast = grounds.sdxl(STEPS, 1, HALF)?;
    let h800 = &grounds.h800;
    let calls = |stage| {
        let stage = forecast.stage(stage);
        stage.map_or(0, |stage| stage.ops.values().sum::<usize>()) as f64
    };
    let whole_ms = forecast.bound(h800).ms();
    let text_ms = forecast
        .stage(Stage::TextEncode)
        .map_or(0.0, |s| s.bound(h800).ms());
    let mut figures = vec![
        Figure::counted(
            "operations of one step of the UNet, each after another",
            calls(Stage::Denoise) / STEPS as f64,
            Unit::Operations,
        ),
        Figure::counted(
            "operations of encoding the text, once an image and not once a step",
            calls(Stage::TextEncode),
            Unit::Operations,
        ),
        Figure::forecast(
            "the most that CLIP's kernels can spare: their share of the time, 30 steps",
            100.0 * text_ms / whole_ms,
            Unit::Percent,
            "h800",
        ),
        Figure::forecast(
            "share of attention over the text, which a fused kernel replaces",
            100.0 * bound_share(&forecast, h800, is_cross_attention),
            Unit::Percent,
            "h800",
        ),
    ];
    let same = (Bearing::Context, Sourced::is_sdxl as fn(&Sourced) -> bool);
    let text = ("text encode's share of the time", Unit::Percent);
    figures.extend(grounds.measured(text, same, |run| {
        let mut stages = run.run.stages.iter();
        let text = stages.find(|stage| stage.stage == Stage::TextEncode)?;
        Some(100.0 * text.share?)
    }));
    let cross = ("share of attention over the text", Unit::Percent);
    figures.extend(grounds.measured(cross, same, |run| {
        Some(100.0 * run.share(is_cross_attention)?)
    }));
    Ok(vec![Point::new(
        "kernels for both networks",
        Some(KERNELS),
        figures,
        Missing {
            why: "this engine's fused cross-attention has been launched on no GPU",
            measure: "on the CPU: darkroom bench --by op --json ops.jsonl; on a GPU: no command of \
                      this build, its kernels (kernels/cross_attention.cu) are only emulated",
        },
    )])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::grounds::tests::grounds;
    use crate::ops::work;

    #[test]
    fn cross_attention_is_told_by_its_keys() {
        let attention = |queries, keys| Work {
            sizes: [8, queries, keys, 64],
            op: Op::Attention,
            ..work::add(1, 1, 4)
        };
        assert!(is_cross_attention(&attention(4096, 77)));
        assert!(!is_cross_attention(&attention(4096, 4096)));
        assert!(!is_cross_attention(&attention(77, 77)));
    }

    #[test]
    fn encoding_the_text_is_a_small_share() {
        let point = &w6(&grounds()).expect("a check")[0];
        // micro-f32.txt: text_encode 0.8 % of the time.
        let share = |what: &str| {
            let found = point.figures.iter().find(|f| f.what.starts_with(what));
            found.expect(what).value
        };
        let micro = share("text encode's share of the time, micro 128x128, batch 1, 20 steps, f32");
        assert!((micro - 0.8).abs() < 0.05, "{micro}");
        assert!(share("the most that CLIP's") < 1.0);
        assert_eq!(point.verdict.name(), "not testable here");
    }
}
