//! Made-up models have the sizes that the published ones have.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use darkroom::clip::ClipTextEncoder;
use darkroom::config::{ClipConfig, UnetConfig, VaeConfig};
use darkroom::ops::OUTPUTS_LAST;
use darkroom::unet::Unet;
use darkroom::vae::Vae;
use darkroom::weights::checkpoint::Component;
use darkroom::weights::synthetic::models;

/// Counts the values that a network asks for; its tensors are one value, repeated.
struct Counting(Arc<AtomicUsize>);

impl SimpleBackend for Counting {
    fn get(
        &self,
        shape: Shape,
        _: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.0.fetch_add(shape.elem_count(), Relaxed);
        Tensor::zeros(1, dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        panic!("{name} is asked for without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        name.ends_with(OUTPUTS_LAST)
    }
}

fn count(model: &str, component: Component) -> usize {
    let folder = models::folder(model)
        .expect("a model of this name")
        .join(component.name());
    let counted = Arc::new(AtomicUsize::new(0));
    let backend = Box::new(Counting(counted.clone()));
    let vb = VarBuilder::from_backend(backend, DType::F32, Device::Cpu);
    match component {
        Component::TextEncoder | Component::TextEncoder2 => {
            let project = component == Component::TextEncoder2;
            let config = ClipConfig::load(&folder).expect("sound");
            ClipTextEncoder::load(config, project, vb).map(drop)
        }
        Component::Unet => Unet::load(UnetConfig::load(&folder).expect("sound"), vb).map(drop),
        Component::Vae => Vae::load(VaeConfig::load(&folder).expect("sound"), vb).map(drop),
        other => panic!("{other} has no weights"),
    }
    .expect("a sound network");
    counted.load(Relaxed)
}

#[test]
fn parameters_are_as_many_as_published() {
    for (model, component, published) in [
        ("sdxl-base", Component::TextEncoder, 123_060_480),
        ("sdxl-base", Component::TextEncoder2, 694_659_840),
        ("sdxl-base", Component::Unet, 2_567_463_684),
        ("sdxl-base", Component::Vae, 83_653_863),
        ("sdxl-refiner", Component::TextEncoder2, 694_659_840),
        ("sdxl-refiner", Component::Unet, 2_259_526_660),
        ("sdxl-refiner", Component::Vae, 83_653_863),
    ] {
        assert_eq!(count(model, component), published, "{model}, {component}");
    }
}
