//! What a GPU's hour costs, and what its board draws.

/// Price and power of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// On demand, one GPU.
    pub dollars_per_hour: f64,
    /// Where the price is from.
    pub source: &'static str,
    /// The board's limit by its datasheet (TDP).
    pub watts: f64,
}

/// The list that all prices are from, so that they compare.
const LIST: &str = "RunPod community cloud, as listed by deploybase.ai on 2026-03-10";
const LIKE_H100: &str = "no public price found: the H100's of that list";
const TYPED: &str = "--price";

/// By the device table's names: dollars an hour, watts, source.
const COSTS: [(&str, f64, f64, &str); 9] = [
    ("h100", 2.69, 700.0, LIST),
    ("h800", 2.69, 700.0, LIKE_H100),
    ("h200", 3.59, 700.0, LIST),
    ("a100", 1.39, 400.0, LIST),
    ("l40s", 0.79, 350.0, LIST),
    ("l4", 0.44, 72.0, LIST),
    ("rtx-4090", 0.34, 450.0, LIST),
    ("rtx-3090", 0.22, 350.0, LIST),
    ("b200", 5.98, 1000.0, LIST),
];

/// A device of the table, at the price typed if one was.
pub fn cost(device: &str, typed: Option<f64>) -> Cost {
    let listed = COSTS.iter().find(|(name, ..)| *name == device);
    let &(_, dollars_per_hour, watts, source) =
        listed.expect("every device of the table is listed");
    match typed {
        Some(dollars_per_hour) => Cost {
            dollars_per_hour,
            source: TYPED,
            watts,
        },
        None => Cost {
            dollars_per_hour,
            source,
            watts,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::device::GPUS;

    #[test]
    fn every_device_has_a_price_and_a_power() {
        let names = GPUS.iter().map(|gpu| gpu.name.as_ref());
        assert!(names.eq(COSTS.iter().map(|(name, ..)| *name)));
        assert_eq!(cost("l4", Some(1.5)).dollars_per_hour, 1.5);
        assert_eq!(
            (cost("l4", Some(1.5)).source, cost("l4", None).watts),
            (TYPED, 72.0)
        );
    }
}
