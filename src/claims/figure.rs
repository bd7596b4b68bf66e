//! Numbers, each with what it is, its unit and where it comes from.

use serde::Serialize;

use super::source::Source;

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Of time.
    Seconds,
    /// One thing over another.
    Ratio,
    /// Hundredths.
    Percent,
    /// 10⁹ bytes.
    Gigabytes,
    /// At once.
    Images,
    /// US dollars.
    Dollars,
    /// US dollars for one GPU in one hour.
    DollarsPerHour,
    /// Of denoising.
    Steps,
    /// Of energy.
    Joules,
    /// 10⁹ weights.
    Billions,
    /// CUDA kernels.
    Kernels,
    /// Of the networks.
    Operations,
    /// GPUs.
    Gpus,
    /// Of signal over noise.
    Decibels,
    /// 10¹² floating-point operations in a second.
    TeraflopPerSecond,
    /// 10²¹ floating-point operations.
    Zettaflop,
    /// One GPU for an hour, each.
    GpuHours,
}

impl Unit {
    /// A number, as written, with its unit.
    pub fn label(self, number: &str) -> String {
        match self {
            Self::Seconds => format!("{number} s"),
            Self::Ratio => format!("{number} ×"),
            Self::Percent => format!("{number} %"),
            Self::Gigabytes => format!("{number} GB"),
            Self::Images => format!("{number} images"),
            Self::Dollars => format!("${number}"),
            Self::DollarsPerHour => format!("${number}/h"),
            Self::Steps => format!("{number} steps"),
            Self::Joules => format!("{number} J"),
            Self::Billions => format!("{number} B"),
            Self::Kernels => format!("{number} kernel"),
            Self::Operations => format!("{number} operations"),
            Self::Gpus => format!("{number} GPUs"),
            Self::Decibels => format!("{number} dB"),
            Self::TeraflopPerSecond => format!("{number} TFLOP/s"),
            Self::Zettaflop => format!("{number} ZFLOP"),
            Self::GpuHours => format!("{number} GPU-hours"),
        }
    }

    /// A number to three digits with its unit.
    pub fn words(self, value: f64) -> String {
        match self {
            Self::Seconds if value < 1e-3 => format!("{} µs", digits(value * 1e6)),
            Self::Seconds if value < 0.1 => format!("{} ms", digits(value * 1e3)),
            Self::Images | Self::Steps | Self::Kernels | Self::Operations | Self::Gpus => {
                self.label(&format!("{value:.0}"))
            }
            _ => self.label(&digits(value)),
        }
    }

    /// How far `value` is from `stated`: in points for percent, else in percent of what was stated.
    pub fn difference(self, stated: f64, value: f64) -> String {
        match self {
            Self::Percent => format!("{:+.1} points", value - stated),
            _ => format!("{:+.1} %", 100.0 * (value / stated - 1.0)),
        }
    }
}

/// Three digits, or all before the point where there are more.
fn digits(value: f64) -> String {
    let power = match value == 0.0 {
        true => 0,
        false => value.abs().log10().floor() as i32,
    };
    let decimals = (2 - power).max(0) as usize;
    format!("{value:.decimals$}")
}

/// A number of the white paper, as it writes it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stated {
    /// Its digits.
    pub text: &'static str,
    /// What it counts.
    pub unit: Unit,
}

impl Stated {
    /// The number.
    pub fn value(&self) -> f64 {
        self.text.parse().expect("the ledger's numbers are numbers") // tests/claims.rs reads them all
    }

    /// Half of its last digit: what rounding may have taken.
    pub fn rounding(&self) -> f64 {
        let decimals = self.text.split_once('.').map_or(0, |(_, d)| d.len());
        0.5 * 10f64.powi(-(decimals as i32))
    }

    /// With its unit.
    pub fn words(&self) -> String {
        self.unit.label(self.text)
    }
}

/// Where a number comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Basis {
    /// Arithmetic on the white paper's own numbers, or on counted work.
    Arithmetic,
    /// Counted from SDXL's configs.
    Counted,
    /// Memory, or what fits into it, by the plan of this engine's GPU path: counted on an emulated GPU to
    /// the third digit. What fits has an eighth for gaps; driver and cuBLAS come on top.
    Plan,
    /// Time by this engine's forecast for a device, at the limits of its datasheet.
    Forecast {
        /// Its name in the device table.
        device: String,
    },
    /// Measured by this engine.
    Measured {
        /// What it ran on.
        device: String,
        /// The file of the record.
        run: String,
    },
    /// Published by others.
    Published {
        /// Where.
        source: &'static str,
    },
    /// Arithmetic on what others published.
    Computed {
        /// Where that is.
        source: &'static str,
    },
}

impl Basis {
    /// In words.
    pub fn words(&self) -> String {
        match self {
            Self::Arithmetic => "arithmetic".into(),
            Self::Counted => "counted".into(),
            Self::Plan => "plan, GPU path".into(),
            Self::Forecast { device } => format!("forecast, {device}"),
            Self::Measured { device, run } => format!("measured, {device} ({run})"),
            Self::Published { source } => format!("published: {source}"),
            Self::Computed { source } => format!("arithmetic on published: {source}"),
        }
    }

    /// Whether it is what others found, whose conditions are theirs.
    pub fn is_of_others(&self) -> bool {
        matches!(self, Self::Published { .. } | Self::Computed { .. })
    }

    /// Whether this engine has the number itself, by more than arithmetic or a bound.
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Measured { .. } | Self::Counted | Self::Plan)
    }
}

/// What a number says about the stated one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bearing {
    /// What the white paper's own inputs give by its own formula.
    OwnArithmetic,
    /// No number of this kind can be below it.
    AtLeast,
    /// No number of this kind can be above it.
    AtMost,
    /// There is room up to it: a stated number below it can be had.
    Room,
    /// The same quantity under the same conditions.
    Same,
    /// The same quantity on another device or under other conditions: compared, never judged by.
    Comparable,
    /// Another quantity: shown alone.
    Context,
}

/// A number beside the stated one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What it is.
    pub what: String,
    /// The number.
    pub value: f64,
    /// What it counts.
    pub unit: Unit,
    /// Where it comes from.
    pub basis: Basis,
    /// What it says about the stated number.
    pub bearing: Bearing,
}

impl Figure {
    fn new(what: impl Into<String>, value: f64, unit: Unit, basis: Basis) -> Self {
        Self {
            what: what.into(),
            value,
            unit,
            basis,
            bearing: Bearing::Context,
        }
    }

    /// Counted from configs.
    pub fn counted(what: impl Into<String>, value: f64, unit: Unit) -> Self {
        Self::new(what, value, unit, Basis::Counted)
    }

    /// By the plan of memory.
    pub fn plan(what: impl Into<String>, value: f64, unit: Unit) -> Self {
        Self::new(what, value, unit, Basis::Plan)
    }

    /// By arithmetic.
    pub fn arithmetic(what: impl Into<String>, value: f64, unit: Unit) -> Self {
        Self::new(what, value, unit, Basis::Arithmetic)
    }

    /// By this engine's forecast for a device.
    pub fn forecast(what: impl Into<String>, value: f64, unit: Unit, device: &str) -> Self {
        let device = device.to_owned();
        Self::new(what, value, unit, Basis::Forecast { device })
    }

    /// By others.
    pub fn published(
        what: impl Into<String>,
        value: f64,
        unit: Unit,
        source: &'static str,
    ) -> Self {
        Self::new(what, value, unit, Basis::Published { source })
    }

    /// By arithmetic on what others published.
    pub fn computed(what: impl Into<String>, value: f64, unit: Unit, source: &'static str) -> Self {
        Self::new(what, value, unit, Basis::Computed { source })
    }

    /// By this engine.
    pub fn measured(
        what: impl Into<String>,
        value: f64,
        unit: Unit,
        run: &(impl Source + ?Sized),
    ) -> Self {
        let basis = Basis::Measured {
            device: run.device(),
            run: run.file().to_owned(),
        };
        Self::new(what, value, unit, basis)
    }

    /// With another bearing than [`Bearing::Context`].
    pub fn bears(self, bearing: Bearing) -> Self {
        Self { bearing, ..self }
    }

    /// Whether this engine measured it.
    pub fn is_measured(&self) -> bool {
        matches!(self.basis, Basis::Measured { .. })
    }

    /// Whether it counts what is stated, so that the two have a difference.
    pub fn is_like(&self, stated: Stated) -> bool {
        self.unit == stated.unit && self.bearing != Bearing::Context
    }

    /// How far it is from what is stated, in words; nothing between unlike things.
    pub fn difference(&self, stated: Option<Stated>) -> Option<String> {
        let stated = stated.filter(|stated| self.is_like(*stated))?;
        Some(stated.unit.difference(stated.value(), self.value))
    }

    /// The number with its unit.
    pub fn words(&self) -> String {
        self.unit.words(self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_and_their_units() {
        for (value, unit, words) in [
            (2.8, Unit::Seconds, "2.80 s"),
            (0.0123, Unit::Seconds, "12.3 ms"),
            (0.0000295, Unit::Seconds, "29.5 µs"),
            (0.000_340_4, Unit::Dollars, "$0.000340"),
            (64.0, Unit::Images, "64 images"),
            (57.14, Unit::Percent, "57.1 %"),
            (1296.3, Unit::Gpus, "1296 GPUs"),
            (0.0, Unit::Ratio, "0.00 ×"),
            (5.0, Unit::Ratio, "5.00 ×"),
        ] {
            assert_eq!(unit.words(value), words);
        }
        assert_eq!(Unit::Percent.difference(37.0, 57.14), "+20.1 points");
        assert_eq!(Unit::Ratio.difference(4.9, 5.0), "+2.0 %");
    }

    #[test]
    fn only_like_things_have_a_difference() {
        let stated = Stated {
            text: "4.9",
            unit: Unit::Ratio,
        };
        let ratio = Figure::arithmetic("tokens over SDXL's", 9.8, Unit::Ratio);
        assert_eq!(ratio.difference(Some(stated)), None);
        let like = ratio.bears(Bearing::Comparable);
        assert_eq!(like.difference(Some(stated)).as_deref(), Some("+100.0 %"));
        assert_eq!(like.difference(None), None);
        let seconds = Figure::arithmetic("it", 9.8, Unit::Seconds).bears(Bearing::Same);
        assert_eq!(seconds.difference(Some(stated)), None);
    }

    #[test]
    fn a_stated_number_is_known_to_half_its_last_digit() {
        let of = |text| Stated {
            text,
            unit: Unit::Ratio,
        };
        assert_eq!((of("4.9").value(), of("4.9").rounding()), (4.9, 0.05));
        assert_eq!((of("47").rounding(), of("0.007").rounding()), (0.5, 0.0005));
    }
}
