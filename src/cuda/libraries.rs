//! NVIDIA's libraries, loaded when a GPU is asked for: the program starts without them. It is linked with a jump for each
//! of their functions (build/libraries.rs), which leads nowhere until [`load`] has found the function.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, c_void};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::driver;

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
    let mut found = HashMap::new();
    for (file, functions) in LIBRARIES {
        let library = open(file)?;
        for function in *functions {
            let jump = Jump(jumps.next().expect("without end"));
            // SAFETY: a library that is loaded, and a name that ends with a zero.
            let at = unsafe { libc::dlsym(library, function.as_ptr()) };
            if !at.is_null() {
                jump.lead(at);
                found.insert(*function, jump);
            }
        }
    }
    let jump = |name: &CStr| {
        let found = found.get(name).copied();
        found.ok_or_else(|| {
            let name = name.to_string_lossy();
            let (major, minor) = super::kernels::TOOLKIT;
            format!(
                "NVIDIA's libraries here are too old, they have no {name}; this program needs a driver for CUDA \
                 {major}.{minor} or later"
            )
        })
    };
    // SAFETY: the libraries' own functions.
    unsafe { driver::install(jump) }
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

/// Where the loader finds it, else in the toolkit that the environment names, else in NVIDIA's own folder.
fn open(file: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: NVIDIA's libraries have no conditions for being loaded; they stay loaded.
    let open = |path: &CStr| unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    let found = open(file);
    if !found.is_null() {
        return Ok(found);
    }
    // SAFETY: the last call of the loader failed; its text is copied at once.
    let told = unsafe { CStr::from_ptr(libc::dlerror()) }
        .to_string_lossy()
        .into_owned();
    if file == LIBRARIES[0].0 {
        return Err(format!("no NVIDIA driver here ({told})"));
    }
    let named = ["CUDA_HOME", "CUDA_PATH"].map(|name| std::env::var_os(name).map(PathBuf::from));
    let toolkits = named.into_iter().flatten();
    let name = OsStr::from_bytes(file.to_bytes());
    toolkits
        .chain([PathBuf::from("/usr/local/cuda")])
        .flat_map(|toolkit| ["lib64", "lib"].map(|folder| toolkit.join(folder).join(name)))
        .filter_map(|path| CString::new(path.into_os_string().into_vec()).ok())
        .map(|path| open(&path))
        .find(|found| !found.is_null())
        .ok_or_else(|| {
            format!(
                "{told}; it comes with CUDA {}, not with the driver: install that, and where it is not in \
                 /usr/local/cuda put its folder on LD_LIBRARY_PATH or set CUDA_HOME",
                super::kernels::TOOLKIT.0
            )
        })
}
