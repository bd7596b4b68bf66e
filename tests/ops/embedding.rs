use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use darkroom::ops::{Embedding, SinusoidConfig, sinusoid};

use crate::support::Array;

#[test]
fn a_table_gives_its_rows() {
    let table = Array::randn(1, &[10, 3]);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let weights = HashMap::from([("weight".to_owned(), table.tensor(dtype))]);
        let vb = VarBuilder::from_tensors(weights, dtype, &Device::Cpu);
        let embedding = Embedding::load(10, 3, vb).unwrap();
        let ids = Tensor::new(&[[9u32, 0, 4], [4, 4, 1]], &Device::Cpu).unwrap();
        let rows = embedding.forward(&ids).unwrap();
        assert_eq!(rows.dims(), [2, 3, 3]);
        let want: Vec<f64> = [9, 0, 4, 4, 4, 1]
            .iter()
            .flat_map(|&id| table.clone().round(dtype).data[id * 3..][..3].to_vec())
            .collect();
        assert_eq!(Array::of(&rows).data, want);
        assert_eq!(embedding.first(2).unwrap().dims(), [2, 3]);
        let outside = Tensor::new(&[[10u32]], &Device::Cpu).unwrap();
        assert!(embedding.forward(&outside).is_err(), "no such entry");
    }
}

#[test]
fn a_number_becomes_waves() {
    for value in [0.0f32, 1.0, 0.5, 20.0, 999.0, 1024.0, 4096.0] {
        for (width, flip_sin_to_cos, freq_shift) in [
            (256, true, 0.0),
            (320, true, 0.0),
            (8, false, 0.0),
            (256, false, 1.0),
            (7, true, 0.0), // an odd width ends in a zero
            (2, true, 0.0),
        ] {
            let config = SinusoidConfig {
                width,
                flip_sin_to_cos,
                freq_shift,
            };
            let half = width / 2;
            let angle = |i: usize| {
                let exponent = i as f64 / (half as f64 - freq_shift);
                f64::from(value) * 10000f64.powf(-exponent)
            };
            let mut want: Vec<f64> = (0..width).map(|_| 0.0).collect();
            for i in 0..half {
                let (sine, cosine) = angle(i).sin_cos();
                let (first, second) = match flip_sin_to_cos {
                    true => (cosine, sine),
                    false => (sine, cosine),
                };
                (want[i], want[half + i]) = (first, second);
            }
            let got = sinusoid(value, config);
            assert_eq!(got.len(), width);
            // A float32 angle is off by some ulp: its exponent, up to 9.2, was rounded too.
            let limit = 1e-7 + f64::from(value) * 1e-6;
            for (got, want) in got.iter().zip(&want) {
                assert!(
                    (f64::from(*got) - want).abs() <= limit,
                    "{value} {config:?}: {got} for {want}"
                );
            }
        }
    }
}
