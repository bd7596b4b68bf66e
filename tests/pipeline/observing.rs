use candle_core::Device;
use darkroom::error::{Error, Result};
use darkroom::observe::{Event, Observer, Stage};
use darkroom::pipeline::{Pipeline, Start};
use darkroom::request::{InitImage, Precision, Request};
use darkroom::weights::checkpoint::Checkpoint;

use crate::{MICRO, request};

/// Checks the order of events as they come.
#[derive(Default)]
struct Order {
    open: Option<Open>,
    finished: Vec<(Stage, usize)>,
}

struct Open {
    stage: Stage,
    steps: usize,
    done: usize,
    in_step: bool,
}

impl Observer for Order {
    fn on(&mut self, event: Event<'_>) -> Result<()> {
        match (event, &mut self.open) {
            (Event::StageBegin { stage, steps }, open @ None) => {
                assert!(steps >= 1, "{stage} announces no step");
                *open = Some(Open {
                    stage,
                    steps,
                    done: 0,
                    in_step: false,
                });
            }
            (Event::StepBegin { stage, step }, Some(open)) => {
                assert_eq!((stage, step, false), (open.stage, open.done, open.in_step));
                open.in_step = true;
            }
            (Event::StepEnd { stage, step }, Some(open)) => {
                assert_eq!((stage, step, true), (open.stage, open.done, open.in_step));
                (open.in_step, open.done) = (false, open.done + 1);
            }
            (Event::StageEnd { stage }, open @ Some(_)) => {
                let was = open.take().unwrap();
                assert_eq!((stage, false), (was.stage, was.in_step));
                // A stage of one piece announces one step and need not report it.
                assert!(
                    was.done == was.steps || (was.steps == 1 && was.done == 0),
                    "{stage}: {} steps of {}",
                    was.done,
                    was.steps
                );
                self.finished.push((stage, was.steps));
            }
            (Event::Tensor { .. }, _) => {}
            (event, open) => {
                let open = open.as_ref().map(|open| open.stage);
                panic!("{event:?} while {open:?} is open");
            }
        }
        Ok(())
    }
}

fn stages(request: &Request, start: Start) -> Vec<(Stage, usize)> {
    let mut order = Order::default();
    MICRO.generate(request, start, &mut order).unwrap();
    assert!(order.open.is_none());
    order.finished
}

#[test]
fn events_come_in_order_and_as_announced() {
    use Stage::{Denoise, Load, PostProcess, TextEncode, VaeDecode, VaeEncode};
    let mut order = Order::default();
    let checkpoint = Checkpoint::micro().unwrap();
    Pipeline::load(&checkpoint, Precision::default(), &Device::Cpu, &mut order).unwrap();
    assert_eq!(order.finished, [(Load, 5)]);

    let run = |denoise, decode| {
        [
            (TextEncode, 1),
            (Denoise, denoise),
            (VaeDecode, decode),
            (PostProcess, 1),
        ]
    };
    assert_eq!(stages(&request(), Start::default()), run(2, 1));
    let batch = Request {
        count: 2,
        steps: 3,
        ..request()
    };
    assert_eq!(stages(&batch, Start::default()), run(3, 2));
    // 24×32 latents in tiles of 16, a quarter in common: 2×3 of them, for each image.
    let tiled = Request {
        count: 2,
        height_px: 192,
        width_px: 256,
        vae_tile: Some(16),
        ..request()
    };
    assert_eq!(stages(&tiled, Start::default()), run(2, 12));
    let whole = Request {
        vae_tile: Some(64),
        ..request()
    };
    assert_eq!(stages(&whole, Start::default()), run(2, 1));

    let from_image = Request {
        steps: 4,
        init_image: Some(InitImage {
            path: "init.png".into(),
            sha256: String::new(),
            strength: 0.5,
        }),
        ..request()
    };
    let start = Start {
        latents: None,
        init_image: Some(image::RgbImage::new(64, 64)),
    };
    let mut want = run(2, 1).to_vec();
    want.insert(1, (VaeEncode, 1));
    assert_eq!(stages(&from_image, start), want);
}

/// Cancels at event `at`, and must not be called again.
struct Cancel {
    at: usize,
    seen: usize,
}

impl Observer for Cancel {
    fn on(&mut self, event: Event<'_>) -> Result<()> {
        self.seen += 1;
        assert!(self.seen <= self.at, "told of {event:?} after cancelling");
        match self.seen == self.at {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }
}

#[test]
fn cancelling_at_any_event_ends_the_run_at_once() {
    let request = Request {
        height_px: 160,
        vae_tile: Some(16),
        ..request()
    };
    for at in 1.. {
        let mut cancel = Cancel { at, seen: 0 };
        match MICRO.generate(&request, Start::default(), &mut cancel) {
            Err(Error::Cancelled) => assert_eq!(cancel.seen, at),
            Err(other) => panic!("cancelled at event {at}, got {other}"),
            Ok(_) => {
                // The run has fewer events than that; all of them were tried.
                assert!(at > 25 && cancel.seen == at - 1, "{at}");
                break;
            }
        }
    }
}
