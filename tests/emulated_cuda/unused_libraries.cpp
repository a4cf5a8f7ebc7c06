// StarPU is linked to cuBLAS, cuSPARSE and cuSOLVER, which nothing here uses, and whose real ones
// need private functions of the real cuBLASLt: libraries that refuse everything.
extern "C" {

// CUBLAS_STATUS_NOT_INITIALIZED and its like are all 1.
#define REFUSE(function) \
  int function() { return 1; }

#if defined(STPT_EMULATE_CUBLAS)
REFUSE(cublasCreate_v2)
REFUSE(cublasDestroy_v2)
REFUSE(cublasInit)
REFUSE(cublasSetKernelStream)
REFUSE(cublasSetStream_v2)
REFUSE(cublasShutdown)
#elif defined(STPT_EMULATE_CUSPARSE)
REFUSE(cusparseCreate)
REFUSE(cusparseDestroy)
REFUSE(cusparseSetStream)
#elif defined(STPT_EMULATE_CUSOLVER)
REFUSE(cusolverDnCreate)
REFUSE(cusolverDnDestroy)
REFUSE(cusolverDnSetStream)
REFUSE(cusolverRfCreate)
REFUSE(cusolverRfDestroy)
REFUSE(cusolverSpCreate)
REFUSE(cusolverSpDestroy)
REFUSE(cusolverSpSetStream)
#endif

}  // extern "C"
