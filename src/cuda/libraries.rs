//! NVIDIA's libraries, loaded when a GPU is asked for: the program starts without them. It is linked with a jump for each
//! of their functions (build/libraries.rs), which leads nowhere until [`load`] has found the function.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::workspace;

include!(concat!(env!("OUT_DIR"), "/libraries.rs"));

unsafe extern "C" {
    /// Where the jumps go: first those of [`LIBRARIES`].
    static darkroom_jumps: [AtomicPtr<c_void>; JUMPS];
}

/// Loads the libraries, once. What they lack of the functions that the program was linked with is answered with an error.
pub fn load() -> Result<(), String> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED.get_or_init(load_all).clone()
}

fn load_all() -> Result<(), String> {
    let mut jumps = 0..;
    let mut all = HashMap::new();
    for (file, functions) in LIBRARIES {
        // SAFETY: NVIDIA's libraries have no conditions for being loaded; they stay loaded.
        let library = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            return Err(missing(file));
        }
        for function in *functions {
            let jump = Jump(jumps.next().expect("without end"));
            all.insert(*function, jump);
            // SAFETY: a library that is loaded, and a name that ends with a zero.
            let found = unsafe { libc::dlsym(library, function.as_ptr()) };
            if !found.is_null() {
                jump.lead(found);
            }
        }
    }
    let of = |name: &CStr| {
        all.get(name)
            .copied()
            .ok_or_else(|| format!("{name:?} is in no library"))
    };
    // SAFETY: the driver's own functions.
    unsafe {
        workspace::install(
            of(c"cuMemAllocAsync")?,
            of(c"cuMemFreeAsync")?,
            of(c"cuStreamDestroy_v2")?,
        )
    };
    Ok(())
}

/// Where the program goes when it calls a library's function.
#[derive(Clone, Copy)]
pub struct Jump(usize);

impl Jump {
    fn at(self) -> &'static AtomicPtr<c_void> {
        // SAFETY: an array of words that only this module writes, each in one piece.
        unsafe { &darkroom_jumps[self.0] }
    }

    /// Where it leads.
    pub fn leads(self) -> *mut c_void {
        self.at().load(Ordering::Acquire)
    }

    /// Lets it lead elsewhere.
    pub fn lead(self, to: *mut c_void) {
        self.at().store(to, Ordering::Release);
    }
}

/// Why a library was not loaded, in the loader's words, and what brings it.
fn missing(file: &CStr) -> String {
    // SAFETY: the last call of the loader failed; its text is copied at once.
    let told = unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy();
    let driver = LIBRARIES[0].0;
    match file == driver {
        true => format!("no NVIDIA driver here ({told})"),
        false => format!(
            "{told}; it comes with CUDA {}, not with the driver: install that, or put its folder on LD_LIBRARY_PATH",
            super::kernels::TOOLKIT.0
        ),
    }
}
